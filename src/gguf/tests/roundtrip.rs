#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::super::value::ValueType;
use super::*;

fn element_type() -> impl Strategy<Value = ValueType> {
    prop::sample::select(ValueType::ALL)
}

fn array(depth: usize) -> BoxedStrategy<Array> {
    fn list<T: Arbitrary + Clone>() -> impl Strategy<Value = Vec<T>> {
        prop::collection::vec(any::<T>(), 0..5)
    }
    element_type()
        .prop_flat_map(move |element| match element {
            ValueType::U8 => list::<u8>().prop_map(Array::U8).boxed(),
            ValueType::I8 => list::<i8>().prop_map(Array::I8).boxed(),
            ValueType::U16 => list::<u16>().prop_map(Array::U16).boxed(),
            ValueType::I16 => list::<i16>().prop_map(Array::I16).boxed(),
            ValueType::U32 => list::<u32>().prop_map(Array::U32).boxed(),
            ValueType::I32 => list::<i32>().prop_map(Array::I32).boxed(),
            ValueType::U64 => list::<u64>().prop_map(Array::U64).boxed(),
            ValueType::I64 => list::<i64>().prop_map(Array::I64).boxed(),
            ValueType::F32 => list::<f32>().prop_map(Array::F32).boxed(),
            ValueType::F64 => list::<f64>().prop_map(Array::F64).boxed(),
            ValueType::Bool => list::<bool>().prop_map(Array::Bool).boxed(),
            ValueType::String => prop::collection::vec(bytes(), 0..5)
                .prop_map(Array::String)
                .boxed(),
            ValueType::Array if depth < MAX_ARRAY_DEPTH => {
                prop::collection::vec(array(depth + 1), 0..4)
                    .prop_map(Array::Array)
                    .boxed()
            }
            ValueType::Array => Just(Array::Array(Vec::new())).boxed(),
        })
        .boxed()
}

fn bytes() -> impl Strategy<Value = GgufString> {
    prop::collection::vec(any::<u8>(), 0..20).prop_map(GgufString::from)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
        any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
        any::<bool>().prop_map(Value::Bool),
        bytes().prop_map(Value::String),
        array(1).prop_map(Value::Array),
    ]
}

/// Values as bytes: unlike `==`, this tells one NaN from another.
fn bits(metadata: &Metadata) -> Vec<u8> {
    let mut bits = Vec::new();
    metadata
        .iter()
        .for_each(|(key, value)| encode::entry(&mut bits, key, value));
    bits
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn metadata_survives_a_file(entries in prop::collection::vec(("[a-z.\u{e9}]{1,12}", value()), 0..12)) {
        let mut metadata = Metadata::new();
        for (key, value) in entries {
            metadata.insert(key, value);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let options = WriterOptions::default();
        Writer::create(&path, metadata.clone(), Vec::new(), &options).unwrap().finish().unwrap();
        let back = Gguf::open(&path).unwrap();
        let types = |metadata: &Metadata| {
            metadata.iter().map(|(key, value)| (key.to_owned(), value.type_name())).collect::<Vec<_>>()
        };
        prop_assert_eq!(types(back.metadata()), types(&metadata));
        prop_assert_eq!(bits(back.metadata()), bits(&metadata));
    }
}
