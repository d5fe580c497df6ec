//! What Arrow's decoder takes for granted and a stranger may break, looked at before it is asked: types that
//! it knows, with what they need, and nulls that are all there. It refuses nothing that the decoder reads.

use std::collections::BTreeSet;

use arrow_ipc::{Endianness, Field, FieldNode, Schema, Type};
use arrow_schema::{DataType, SchemaRef};

/// Fields within fields. The decoder's own check of the message is about as strict.
const MAX_DEPTH: usize = 64;

/// Types of one union, each with an int8 of its own.
const MAX_UNION: usize = 127;

/// What is wrong.
pub type Wrong = &'static str;

/// A schema as the message has it.
pub fn schema(schema: Schema<'_>) -> Result<(), Wrong> {
    if schema.endianness() != Endianness::Little {
        return Err("numbers have their first byte last");
    }
    let fields = schema.fields().ok_or("a schema has no fields")?;
    fields.iter().try_for_each(|of| field(of, 0))
}

fn field(of: Field<'_>, depth: usize) -> Result<(), Wrong> {
    const INCOMPLETE: Wrong = "a type lacks what it needs";
    if depth > MAX_DEPTH {
        return Err("types lie too deep in one another");
    }
    let demand = |holds: Option<bool>| if holds == Some(true) { Ok(()) } else { Err(INCOMPLETE) };
    let children = of.children().map_or(0, |children| children.len());
    if let Some(dictionary) = of.dictionary() {
        demand(dictionary.indexType().map(|index| [8, 16, 32, 64].contains(&index.bitWidth())))?;
    }
    match of.type_type() {
        Type::Null | Type::Bool | Type::Utf8 | Type::Binary | Type::LargeUtf8 | Type::LargeBinary => {}
        Type::Utf8View | Type::BinaryView | Type::Struct_ => {}
        Type::Int => demand(of.type_as_int().map(|int| [8, 16, 32, 64].contains(&int.bitWidth())))?,
        Type::FloatingPoint => demand(of.type_as_floating_point().map(|float| (0..=2).contains(&float.precision().0)))?,
        Type::FixedSizeBinary => demand(of.type_as_fixed_size_binary().map(|binary| binary.byteWidth() >= 0))?,
        Type::Date => demand(of.type_as_date().map(|date| (0..=1).contains(&date.unit().0)))?,
        Type::Time => demand(of.type_as_time().map(|time| match time.unit().0 {
            0 | 1 => time.bitWidth() == 32,
            2 | 3 => time.bitWidth() == 64,
            _ => false,
        }))?,
        Type::Timestamp => demand(of.type_as_timestamp().map(|time| (0..=3).contains(&time.unit().0)))?,
        Type::Duration => demand(of.type_as_duration().map(|duration| (0..=3).contains(&duration.unit().0)))?,
        Type::Interval => demand(of.type_as_interval().map(|interval| (0..=2).contains(&interval.unit().0)))?,
        Type::Decimal => demand(of.type_as_decimal().map(|decimal| {
            let fits = u8::try_from(decimal.precision()).is_ok() && i8::try_from(decimal.scale()).is_ok();
            fits && [32, 64, 128, 256].contains(&decimal.bitWidth())
        }))?,
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView => demand(Some(children == 1))?,
        Type::FixedSizeList => demand(of.type_as_fixed_size_list().map(|list| list.listSize() >= 0 && children == 1))?,
        Type::Map => demand(of.type_as_map().map(|_| children == 1))?,
        Type::RunEndEncoded => demand(Some(children == 2))?,
        Type::Union => demand(of.type_as_union().map(|union| {
            let ids: Option<Vec<i32>> = union.typeIds().map(|ids| ids.iter().collect());
            (0..=1).contains(&union.mode().0) && children <= MAX_UNION && ids.is_none_or(|ids| are_ids(&ids, children))
        }))?,
        _ => return Err("a type is unknown"),
    }
    of.children().into_iter().flatten().try_for_each(|child| field(child, depth + 1))
}

/// Whether each of so many types of a union has one id.
fn are_ids(ids: &[i32], types: usize) -> bool {
    let different: BTreeSet<i32> = ids.iter().copied().collect();
    ids.len() == types && different.len() == types && ids.iter().all(|id| (0..=127).contains(id))
}

/// The columns of a batch: each has its node, of no less than no rows, and where a node has nulls, the bits that
/// say which. `sizes` are those of the buffers when decompressed, or more.
pub fn nulls<'a>(
    schema: &SchemaRef,
    nodes: impl Iterator<Item = &'a FieldNode>,
    sizes: impl Iterator<Item = u64>,
) -> Result<(), Wrong> {
    let (mut nodes, mut sizes) = (nodes, sizes);
    for field in schema.fields() {
        if !column(field.data_type(), &mut nodes, &mut sizes)? {
            break;
        }
    }
    Ok(())
}

/// Whether what follows can be told apart.
fn column<'a>(
    data_type: &DataType,
    nodes: &mut impl Iterator<Item = &'a FieldNode>,
    sizes: &mut impl Iterator<Item = u64>,
) -> Result<bool, Wrong> {
    // How many buffers follow the one of the nulls is not told by the type alone.
    if matches!(data_type, DataType::Union(..) | DataType::Utf8View | DataType::BinaryView) {
        return Ok(false);
    }
    let node = nodes.next().ok_or("a column is missing")?;
    let rows = u64::try_from(node.length()).map_err(|_| "a column has less than no rows")?;
    let more = match data_type {
        DataType::Null | DataType::RunEndEncoded(..) => None,
        DataType::Struct(_) | DataType::FixedSizeList(..) => Some(0),
        DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary => Some(2),
        DataType::ListView(_) | DataType::LargeListView(_) => Some(2),
        _ => Some(1),
    };
    if let Some(more) = more {
        let bits = sizes.next().ok_or("a buffer is missing")?.saturating_mul(8);
        if node.null_count() > 0 && bits < rows {
            return Err("a column has fewer bits for its nulls than rows");
        }
        for _ in 0..more {
            sizes.next().ok_or("a buffer is missing")?;
        }
    }
    let children: Vec<&DataType> = match data_type {
        DataType::List(child) | DataType::LargeList(child) | DataType::Map(child, _) => vec![child.data_type()],
        DataType::ListView(child) | DataType::LargeListView(child) => vec![child.data_type()],
        DataType::FixedSizeList(child, _) => vec![child.data_type()],
        DataType::Struct(children) => children.iter().map(|child| child.data_type()).collect(),
        DataType::RunEndEncoded(ends, values) => vec![ends.data_type(), values.data_type()],
        _ => Vec::new(),
    };
    for child in children {
        if !column(child, nodes, sizes)? {
            return Ok(false);
        }
    }
    Ok(true)
}
