//! Every method that is served, and the shape of its requests: read from the descriptors, so that a new
//! method is among them by itself.

use std::collections::HashMap;

use hydrant::rpc::v1;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use prost_types::{MethodDescriptorProto, ServiceDescriptorProto};

pub const FLIGHT: &str = "arrow.flight.protocol.FlightService";

/// First words of methods that change nothing, whatever they are asked.
const READS: [&str; 20] = [
    "Get",
    "List",
    "Plan",
    "Why",
    "Explain",
    "Search",
    "WhoAmI",
    "Verify",
    "Check",
    "Watch",
    "StreamOnline",
    "PollFlightInfo",
    "Handshake",
    "DoGet",
    "DoExchange",
    "DoAction",
    "ServerReflectionInfo",
    "Validate",
    "Lookup",
    "Test",
];

#[derive(Clone, Debug)]
pub struct Method {
    /// `package.Service/Method`.
    pub name: String,
    /// The full name of its request.
    pub input: String,
    pub streams_in: bool,
    /// It may change something, where its request is good.
    pub changes: bool,
}

impl Method {
    pub fn is_flight(&self) -> bool {
        self.name.starts_with(FLIGHT)
    }

    /// Answers of other people's services have no reasons of ours.
    pub fn is_ours(&self) -> bool {
        !self.name.starts_with("grpc.")
    }
}

pub struct Schema {
    pub methods: Vec<Method>,
    messages: HashMap<String, DescriptorProto>,
}

impl Schema {
    pub fn read() -> Self {
        let mut schema = Self { methods: Vec::new(), messages: HashMap::new() };
        let sets = [
            v1::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        for set in sets {
            for file in FileDescriptorSet::decode(set).expect("descriptors").file {
                schema.add(&file);
            }
        }
        schema.add(&flight());
        schema.methods.sort_by(|one, other| one.name.cmp(&other.name));
        schema.methods.dedup_by(|one, other| one.name == other.name);
        schema
    }

    pub fn message(&self, name: &str) -> &DescriptorProto {
        self.messages.get(name).unwrap_or_else(|| panic!("no descriptor of {name}"))
    }

    pub fn method(&self, name: &str) -> &Method {
        self.methods.iter().find(|method| method.name == name).unwrap_or_else(|| panic!("no method {name}"))
    }

    fn add(&mut self, file: &FileDescriptorProto) {
        for message in &file.message_type {
            self.add_message(file.package(), message);
        }
        for service in &file.service {
            for method in &service.method {
                self.methods.push(Method {
                    name: format!("{}.{}/{}", file.package(), service.name(), method.name()),
                    input: method.input_type().trim_start_matches('.').to_owned(),
                    streams_in: method.client_streaming(),
                    changes: !READS.iter().any(|read| method.name().starts_with(read)),
                });
            }
        }
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested);
        }
        self.messages.insert(name, message.clone());
    }
}

/// Arrow Flight's requests (`Flight.proto` of Apache Arrow), whose descriptors no crate has.
fn flight() -> FileDescriptorProto {
    const PACKAGE: &str = "arrow.flight.protocol";
    let message = |name: &str, fields: &[(&str, i32, Type, &str)]| DescriptorProto {
        name: Some(name.to_owned()),
        field: fields
            .iter()
            .map(|(name, number, kind, of)| FieldDescriptorProto {
                name: Some((*name).to_owned()),
                number: Some(*number),
                label: Some(if *name == "path" { Label::Repeated } else { Label::Optional }.into()),
                r#type: Some((*kind).into()),
                type_name: (!of.is_empty()).then(|| format!(".{PACKAGE}.{of}")),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let method = |(name, input, streams_in): (&str, &str, bool)| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(format!(".{PACKAGE}.{input}")),
        client_streaming: Some(streams_in),
        ..Default::default()
    };
    let methods = [
        ("Handshake", "HandshakeRequest", true),
        ("ListFlights", "Criteria", false),
        ("GetFlightInfo", "FlightDescriptor", false),
        ("PollFlightInfo", "FlightDescriptor", false),
        ("GetSchema", "FlightDescriptor", false),
        ("DoGet", "Ticket", false),
        ("DoPut", "FlightData", true),
        ("DoExchange", "FlightData", true),
        ("DoAction", "Action", false),
        ("ListActions", "Empty", false),
    ];
    let descriptor = [("type", 1, Type::Int32, ""), ("cmd", 2, Type::Bytes, ""), ("path", 3, Type::String, "")];
    let data = [
        ("flight_descriptor", 1, Type::Message, "FlightDescriptor"),
        ("data_header", 2, Type::Bytes, ""),
        ("app_metadata", 3, Type::Bytes, ""),
        ("data_body", 1000, Type::Bytes, ""),
    ];
    FileDescriptorProto {
        package: Some(PACKAGE.to_owned()),
        message_type: vec![
            message("HandshakeRequest", &[("protocol_version", 1, Type::Uint64, ""), ("payload", 2, Type::Bytes, "")]),
            message("Criteria", &[("expression", 1, Type::Bytes, "")]),
            message("FlightDescriptor", &descriptor),
            message("Ticket", &[("ticket", 1, Type::Bytes, "")]),
            message("FlightData", &data),
            message("Action", &[("type", 1, Type::String, ""), ("body", 2, Type::Bytes, "")]),
            message("Empty", &[]),
        ],
        service: vec![ServiceDescriptorProto {
            name: Some("FlightService".to_owned()),
            method: methods.into_iter().map(method).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}
