//! Offload to a device that cannot map host memory: a ggml RPC server on loopback. Weights, rows and planes live there,
//! whole or in part, and the numbers stay the same.

#![cfg(feature = "rpc")]

use std::ffi::CString;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oxling::engine::{Engine, EngineConfig, FlashAttention};
use oxling::ggml::{Device, add_rpc_server};
use oxling::gguf::Gguf;
use oxling::memory::{SeqId, Work};
use oxling::model::{LoadOptions, Model};

/// Starts a server that lends the CPU, on a port that was free a moment ago.
fn start_server() -> String {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port();
    let endpoint = format!("127.0.0.1:{port}");
    let name = CString::new(endpoint.clone()).expect("no NUL");
    std::thread::spawn(move || {
        // SAFETY: the name and the device outlive the call, which never returns.
        unsafe {
            let mut device =
                ggml_sys::ggml_backend_dev_by_type(ggml_sys::GGML_BACKEND_DEVICE_TYPE_CPU);
            ggml_sys::ggml_backend_rpc_start_server(
                name.as_ptr(),
                std::ptr::null(),
                1,
                1,
                &mut device,
            );
        }
    });
    for _ in 0..100 {
        if TcpStream::connect(&endpoint).is_ok() {
            return endpoint;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the server did not start");
}

fn logits(devices: &[Device], n_gpu_layers: u32) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-IQ4_NL.gguf");
    let options = LoadOptions {
        devices: devices.to_vec(),
        n_gpu_layers: Some(n_gpu_layers),
        ..LoadOptions::default()
    };
    let model = Model::load(
        Arc::new(Gguf::open(&path).expect("demo model")),
        &options,
        &mut |_, _| {},
    )
    .expect("loads");
    // One kernel for all: devices would choose different ones, and a remote one has none of ours.
    let flash_attention = FlashAttention::Off;
    let config = EngineConfig {
        n_ctx: 256,
        n_threads: 1,
        n_threads_batch: 1,
        mtp: true,
        flash_attention,
        own_kernels: false,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(&model, config).expect("engine");
    let ids: Vec<u32> = (100..140).collect();
    let mut out = Vec::new();
    for part in [&ids[..30], &ids[30..31], &ids[31..40]] {
        let last = part.len() as u32 - 1;
        let step = engine
            .step(
                &[Work {
                    seq: SeqId(0),
                    tokens: part,
                    outputs: vec![last],
                }],
                true,
            )
            .expect("step");
        out.extend_from_slice(step.logits(0, last).expect("row"));
        out.extend_from_slice(step.mtp_logits(0, last).expect("row"));
    }
    let checkpoint = engine
        .checkpoint(SeqId(0))
        .expect("state comes back over the wire");
    assert!(checkpoint.state.iter().any(|&b| b != 0));
    out
}

#[test]
fn a_remote_device_gives_the_same_numbers() {
    let devices = add_rpc_server(&start_server()).expect("connects");
    let here = logits(&devices, 0);
    for n_gpu_layers in [1, 5, 99] {
        let there = logits(&devices, n_gpu_layers);
        let worst = here
            .iter()
            .zip(&there)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert_eq!(worst, 0.0, "{n_gpu_layers} layers on the server");
    }
}

#[test]
fn nobody_there_is_an_error() {
    let message = add_rpc_server("127.0.0.1:1")
        .expect_err("nothing listens there")
        .to_string();
    assert!(message.contains("127.0.0.1:1"), "{message}");
}
