use super::context::{Backend, Context, Result};

pub const BACKEND: Backend = Backend {
    define: "GGML_USE_BLAS",
    build,
};

fn build(_: &Context) -> Result<String> {
    Err("not built yet".into())
}
