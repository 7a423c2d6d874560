//! The library links, registers its devices and computes.

use std::ffi::CStr;

use ggml_sys::*;

/// Side of the matrices: large enough for every backend to accept, small enough for exact sums.
const N: usize = 64;

/// Small whole numbers, different for every seed, so that sums of products are exact in f32.
fn matrix(seed: usize) -> Vec<f32> {
    (0..N * N)
        .map(|i| ((i * 7 + i / N + seed) % 5) as f32 - 2.0)
        .collect()
}

/// ggml multiplies rows by rows: `out[j][i] = sum_k a[i][k] * b[j][k]`.
fn expected() -> Vec<f32> {
    let (a, b) = (matrix(0), matrix(3));
    let row = |m: &[f32], r: usize| m[r * N..(r + 1) * N].to_vec();
    (0..N * N)
        .map(|at| {
            row(&a, at % N)
                .iter()
                .zip(row(&b, at / N))
                .map(|(x, y)| x * y)
                .sum()
        })
        .collect()
}

/// The product, computed by a scheduler that has been told to use `backend` for it.
fn mul_mat_on(backend: ggml_backend_t) -> Vec<f32> {
    let (a, b) = (matrix(0), matrix(3));
    let mut out = vec![0.0f32; N * N];
    let side = N as i64;
    // SAFETY: every handle is created here, checked, used while its owner lives, and freed once; the byte
    // counts passed to tensor_set and tensor_get are those of the arrays.
    unsafe {
        let context = ggml_init(ggml_init_params {
            mem_size: 1 << 20,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        });
        assert!(!context.is_null());
        let x = ggml_new_tensor_2d(context, GGML_TYPE_F32, side, side);
        let y = ggml_new_tensor_2d(context, GGML_TYPE_F32, side, side);
        ggml_set_input(x);
        ggml_set_input(y);
        let product = ggml_mul_mat(context, x, y);
        ggml_set_output(product);
        let graph = ggml_new_graph(context);
        ggml_build_forward_expand(graph, product);

        let cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, std::ptr::null());
        let mut backends = vec![backend, cpu];
        if ggml_backend_is_cpu(backend) {
            backends.remove(0);
        }
        let count = i32::try_from(backends.len()).expect("a few backends");
        let scheduler = ggml_backend_sched_new(
            backends.as_mut_ptr(),
            std::ptr::null_mut(),
            count,
            64,
            false,
            true,
        );
        ggml_backend_sched_set_tensor_backend(scheduler, product, backends[0]);
        assert!(ggml_backend_sched_alloc_graph(scheduler, graph));
        ggml_backend_tensor_set(x, a.as_ptr().cast(), 0, size_of_val(&a[..]));
        ggml_backend_tensor_set(y, b.as_ptr().cast(), 0, size_of_val(&b[..]));
        assert_eq!(
            ggml_backend_sched_graph_compute(scheduler, graph),
            GGML_STATUS_SUCCESS
        );
        assert_eq!(
            ggml_backend_sched_get_tensor_backend(scheduler, product),
            backends[0]
        );
        ggml_backend_tensor_get(product, out.as_mut_ptr().cast(), 0, size_of_val(&out[..]));
        ggml_backend_sched_free(scheduler);
        ggml_backend_free(cpu);
        ggml_free(context);
    }
    out
}

#[test]
fn every_device_multiplies() {
    // SAFETY: indices stay below the count, and each backend is freed after its last use.
    unsafe {
        for i in 0..ggml_backend_dev_count() {
            let device = ggml_backend_dev_get(i);
            let name = CStr::from_ptr(ggml_backend_dev_name(device));
            let backend = ggml_backend_dev_init(device, std::ptr::null());
            assert!(!backend.is_null(), "{name:?}");
            assert_eq!(mul_mat_on(backend), expected(), "{name:?}");
            ggml_backend_free(backend);
        }
    }
}

#[test]
fn versions_agree() {
    // SAFETY: both functions return static C strings.
    let (version, commit) = unsafe {
        (
            CStr::from_ptr(ggml_version()),
            CStr::from_ptr(ggml_commit()),
        )
    };
    assert_eq!(version.to_str(), Ok(GGML_VERSION));
    assert_eq!(commit.to_str(), Ok(GGML_COMMIT));
    assert!(LICENSE.starts_with("MIT License"), "{LICENSE}");
}

#[test]
fn the_registry_lists_what_was_built() {
    let mut names = Vec::new();
    // SAFETY: indices stay below the counts, and names are static C strings.
    unsafe {
        for i in 0..ggml_backend_reg_count() {
            names.push(
                CStr::from_ptr(ggml_backend_reg_name(ggml_backend_reg_get(i)))
                    .to_str()
                    .expect("ASCII"),
            );
        }
        assert!(ggml_backend_dev_count() >= 1);
    }
    let macos = cfg!(target_os = "macos");
    for (name, expected) in [
        ("CPU", true),
        (
            "BLAS",
            cfg!(feature = "blas") || (macos && cfg!(feature = "accelerate")),
        ),
        ("CUDA", cfg!(feature = "cuda")),
        ("MTL", macos && cfg!(feature = "metal")),
        ("RPC", cfg!(feature = "rpc")),
        ("Vulkan", cfg!(feature = "vulkan")),
    ] {
        let shown = if name == "MTL" { "Metal" } else { name };
        assert_eq!(
            BUILD_INFO.contains(shown),
            expected,
            "{name} in {BUILD_INFO}"
        );
        assert_eq!(names.contains(&name), expected, "{name} in {names:?}");
        assert_eq!(
            BUILD_INFO.contains(name),
            expected,
            "{name} in {BUILD_INFO}"
        );
    }
}

#[test]
#[cfg(feature = "rpc")]
fn a_loopback_server_multiplies() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let endpoint = std::ffi::CString::new(format!("127.0.0.1:{port}")).expect("no NUL");
    let served = endpoint.clone();
    // The server has no way to stop: its thread ends with the process.
    std::thread::spawn(move || {
        // SAFETY: the device belongs to the registry, and the endpoint outlives the call.
        unsafe {
            let mut device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
            ggml_backend_rpc_start_server(served.as_ptr(), std::ptr::null(), 1, 1, &raw mut device);
        }
    });
    for _ in 0..100 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // SAFETY: the backend is freed after its last use.
    unsafe {
        let remote = ggml_backend_rpc_init(endpoint.as_ptr(), 0);
        assert!(!remote.is_null());
        assert!(ggml_backend_is_rpc(remote));
        assert_eq!(mul_mat_on(remote), expected());
        ggml_backend_free(remote);
    }
}
