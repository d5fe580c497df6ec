//! People with random values, and a search for these values in whatever a server has given out. A value is
//! known in every form in which it may leave: as columns of the wire, Arrow and matrices hold it, and as text.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, FixedSizeListArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use hydrant::clock::rfc3339;

use super::random::Random;

/// The features of [`Person`] that are personal.
pub const ALL: [&str; 8] = ["name", "token", "number", "income", "born", "embedding", "codes", "words"];
/// Those that go into a matrix.
pub const NUMBERS: [&str; 4] = ["number", "income", "born", "embedding"];
/// Those whose values stand in statistics.
pub const MEASURED: [&str; 3] = ["number", "income", "born"];
pub const DIMENSION: usize = 4;

/// Nothing that is looked for is shorter; what is as short stands in random bytes once in ages.
const SHORTEST: usize = 8;

/// What is known of somebody at an instant, none of which is like anything else.
#[derive(Debug)]
pub struct Person {
    name: String,
    token: Vec<u8>,
    number: i64,
    income: f64,
    /// Microseconds.
    born: i64,
    embedding: [f32; DIMENSION],
    codes: Vec<i64>,
    words: Vec<String>,
}

impl Person {
    pub fn random(random: &mut Random) -> Self {
        let embedding = std::array::from_fn(|_| fraction(random) as f32);
        Self {
            name: word(random),
            token: (0..2).flat_map(|_| random.next().to_le_bytes()).collect(),
            number: large(random),
            income: 10_000.0 + fraction(random) * 80_000.0,
            // Between 1970 and 2001.
            born: random.between(0, 1_000_000_000_000_000),
            embedding,
            codes: (0..=random.below(3)).map(|_| large(random)).collect(),
            words: (0..=random.below(3)).map(|_| word(random)).collect(),
        }
    }
}

/// A number of 19 digits, of either sign.
fn large(random: &mut Random) -> i64 {
    let number = random.between(1 << 60, 1 << 61);
    if random.chance(50) { -number } else { number }
}

fn fraction(random: &mut Random) -> f64 {
    random.next() as f64 / u64::MAX as f64
}

fn word(random: &mut Random) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
    (0..20).map(|_| char::from(*random.pick(LETTERS))).collect()
}

/// People as rows of the source `profiles`, numbered by `users`.
pub fn rows(people: &[Person], users: &[i64], happened: i64) -> RecordBatch {
    let integers = |of: fn(&Person) -> i64| people.iter().map(of).collect::<Vec<i64>>();
    let times = |times: Vec<i64>| array(TimestampMicrosecondArray::from(times).with_timezone("UTC"));
    let embeddings = people.iter().map(|one| Some(one.embedding.map(Some)));
    let embeddings = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(embeddings, DIMENSION as i32);
    let codes = people.iter().map(|one| Some(one.codes.iter().copied().map(Some).collect::<Vec<_>>()));
    let mut words = ListBuilder::new(StringBuilder::new());
    for one in people {
        words.append_value(one.words.iter().map(Some));
    }
    let columns = [
        ("user_id", array(Int64Array::from(users.to_vec()))),
        ("happened", times(vec![happened; people.len()])),
        ("name", array(people.iter().map(|one| Some(one.name.as_str())).collect::<StringArray>())),
        ("token", array(people.iter().map(|one| Some(one.token.as_slice())).collect::<BinaryArray>())),
        ("number", array(Int64Array::from(integers(|one| one.number)))),
        ("income", array(people.iter().map(|one| Some(one.income)).collect::<Float64Array>())),
        ("born", times(integers(|one| one.born))),
        ("embedding", array(embeddings)),
        ("codes", array(ListArray::from_iter_primitive::<Int64Type, _, _>(codes))),
        ("words", array(words.finish())),
        ("visits", array(Int64Array::from(integers(|_| 3)))),
    ];
    RecordBatch::try_from_iter(columns).expect("equal lengths")
}

fn array(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

/// What is looked for: by its first bytes, with the feature whose value it is.
pub struct Secrets(HashMap<[u8; SHORTEST], Vec<(Vec<u8>, &'static str)>>);

impl Secrets {
    pub fn of<'a>(people: impl IntoIterator<Item = &'a Person>) -> Self {
        let mut secrets = Self(HashMap::new());
        for person in people {
            let Person { name, token, number, income, born, embedding, codes, words } = person;
            secrets.add("name", [name.clone().into_bytes()]);
            secrets.add("token", forms_of_bytes(token));
            secrets.add("number", forms_of_integer(*number));
            secrets.add("income", forms_of_float(*income));
            secrets.add("born", forms_of_integer(*born).into_iter().chain([rfc3339(*born).into_bytes()]));
            secrets.add("embedding", forms_of_vector(embedding));
            codes.iter().for_each(|code| secrets.add("codes", forms_of_integer(*code)));
            words.iter().for_each(|word| secrets.add("words", [word.clone().into_bytes()]));
        }
        secrets
    }

    fn add(&mut self, feature: &'static str, forms: impl IntoIterator<Item = Vec<u8>>) {
        for form in forms {
            // A number of some people is short in one form or another, and long in the others.
            if let Some(head) = form.first_chunk::<SHORTEST>() {
                self.0.entry(*head).or_default().push((form, feature));
            }
        }
    }

    /// The features of which a value stands in the bytes.
    pub fn found_in(&self, bytes: &[u8]) -> BTreeSet<&'static str> {
        let mut found = BTreeSet::new();
        for (at, head) in bytes.windows(SHORTEST).enumerate() {
            let head: &[u8; SHORTEST] = head.try_into().expect("as long as the window");
            let forms = self.0.get(head).into_iter().flatten();
            found.extend(forms.filter(|(form, _)| bytes[at..].starts_with(form)).map(|(_, feature)| *feature));
        }
        found
    }
}

fn forms_of_bytes(bytes: &[u8]) -> Vec<Vec<u8>> {
    let hex = |upper: bool| {
        let digits = bytes.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") });
        digits.collect::<String>()
    };
    let texts =
        [hex(false), hex(true), STANDARD.encode(bytes), STANDARD_NO_PAD.encode(bytes), URL_SAFE_NO_PAD.encode(bytes)];
    texts.into_iter().map(String::into_bytes).chain([bytes.to_vec()]).collect()
}

fn forms_of_integer(number: i64) -> Vec<Vec<u8>> {
    let zigzag = ((number << 1) ^ (number >> 63)) as u64;
    let mut forms = vec![
        number.to_le_bytes().to_vec(),
        number.to_be_bytes().to_vec(),
        number.to_string().into_bytes(),
        varint(zigzag),
        varint(number as u64),
    ];
    forms.extend(forms_of_float(number as f64));
    forms
}

fn forms_of_float(number: f64) -> Vec<Vec<u8>> {
    let texts = [number.to_string(), format!("{number:?}"), format!("{number:e}")];
    let bytes = [number.to_le_bytes().to_vec(), number.to_be_bytes().to_vec()];
    texts.into_iter().map(String::into_bytes).chain(bytes).collect()
}

/// All of its numbers one after the other, and each as text.
fn forms_of_vector(vector: &[f32; DIMENSION]) -> Vec<Vec<u8>> {
    let single = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    let double = vector.iter().flat_map(|number| f64::from(*number).to_le_bytes()).collect();
    let texts = vector.iter().flat_map(|number| [number.to_string(), f64::from(*number).to_string()]);
    texts.map(String::into_bytes).chain([single, double]).collect()
}

/// As protobuf writes numbers.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Everything that lies in the memory of rows, beneath nulls too.
pub fn memory_of(batch: &RecordBatch) -> Vec<u8> {
    let mut open: Vec<_> = batch.columns().iter().map(|column| column.to_data()).collect();
    let mut bytes = Vec::new();
    while let Some(data) = open.pop() {
        data.buffers().iter().for_each(|buffer| bytes.extend_from_slice(buffer));
        open.extend_from_slice(data.child_data());
    }
    bytes
}

#[test]
fn a_value_is_found_in_each_of_its_forms_and_no_other_s() {
    let mut random = Random::new(7);
    let (person, other) = (Person::random(&mut random), Person::random(&mut random));
    let (secrets, of_other) = (Secrets::of([&person]), Secrets::of([&other]));
    let lies = memory_of(&rows(&[person], &[1], 0));
    assert_eq!(secrets.found_in(&lies), ALL.into_iter().collect());
    assert!(of_other.found_in(&lies).is_empty());
    // Among other bytes, and cut off.
    for form in secrets.0.values().flatten().map(|(form, _)| form) {
        let among = [b"before".as_slice(), form, b"after"].concat();
        assert!(!secrets.found_in(&among).is_empty(), "{form:?}");
        assert!(of_other.found_in(&among).is_empty(), "{form:?}");
    }
}
