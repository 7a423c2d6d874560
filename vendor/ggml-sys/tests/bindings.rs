//! The committed bindings belong to the source that was built.

#[allow(dead_code)]
#[path = "../build/headers.rs"]
mod headers;

#[test]
fn bindings_are_of_these_headers() {
    let recorded = include_str!("../src/bindings.rs").lines().next();
    assert_eq!(
        recorded,
        Some(concat!("// headers: ", env!("GGML_SYS_HEADERS"))),
        "run `cargo run -p ggml-sys --features regenerate --bin regenerate-bindings`"
    );
    let layout = include_str!("../layout.c");
    for header in headers::HEADERS {
        let name = header.rsplit('/').next().expect("a file name");
        assert!(
            layout.contains(&format!("#include \"{name}\"")),
            "{name} is not checked by layout.c"
        );
    }
    for fact in [
        "sizeof(struct ggml_tensor)",
        "GGML_OP_COUNT ==",
        "GGML_TYPE_COUNT ==",
        "GGML_MAX_DIMS ==",
    ] {
        assert!(layout.contains(fact), "{fact} is not checked by layout.c");
    }
}
