"""Validates events of lineage against OpenLineage's official JSON schemas, which `scripts/setup.sh` unpacks."""

import json
from pathlib import Path

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

FOLDER = Path(__file__).parents[2] / ".venv" / "openlineage-schemas"
CORE = "https://openlineage.io/spec/2-0-2/OpenLineage.json"
# What the schemas' package leaves out; of these the core schema says only that they name producer and schema.
WITHOUT_SCHEMA = {"NominalTimeRunFacet", "OwnershipDatasetFacet", "DatasetVersionDatasetFacet"}

SCHEMAS = {schema["$id"]: schema for schema in (json.loads(path.read_text()) for path in FOLDER.glob("*.json"))}
# By name and version but for its last part: the package's and an event's may be some corrections apart.
BY_NAME = {name.rsplit("/", 1)[1]: name for name in SCHEMAS}
REGISTRY = Registry().with_resources((name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items())


def validator(schema):
    return Draft202012Validator(schema, registry=REGISTRY, format_checker=Draft202012Validator.FORMAT_CHECKER)


def version_of(url):
    major, minor, _ = url.rsplit("/", 2)[1].split("-")
    return major, minor


def facets_of(event):
    """Every facet of an event with its name."""
    for holder in (event["run"], event["job"], *event["inputs"], *event["outputs"]):
        for kind in ("facets", "inputFacets", "outputFacets"):
            yield from holder.get(kind, {}).items()


def validate(event):
    """Raises where the event isn't what the core schema says, or one of its facets not what its own does.
    Returns the names of the facets' schemas that were checked."""
    assert event["schemaURL"] == f"{CORE}#/$defs/RunEvent"
    validator({"$ref": event["schemaURL"]}).validate(event)
    checked = set()
    for name, facet in facets_of(event):
        url, _, kind = facet["_schemaURL"].partition("#/$defs/")
        if kind in WITHOUT_SCHEMA:
            continue
        official = BY_NAME.get(url.rsplit("/", 1)[1])
        unofficial = f"the facet {name} names a schema that isn't official: {url}"
        assert official and url.startswith("https://openlineage.io/spec/facets/"), unofficial
        assert version_of(url) == version_of(official), unofficial
        # The schema says by which key an event has the facet.
        validator({"$ref": official}).validate({name: facet})
        assert name in SCHEMAS[official]["properties"], f"{official} knows no facet {name}"
        checked.add(kind)
    return checked
