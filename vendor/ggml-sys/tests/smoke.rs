//! The library links, registers its devices and computes.

use std::ffi::CStr;

use ggml_sys::*;

/// A row-major 2x3 by 3x2 product whose result is exact in f32.
fn mul_mat_on(backend: ggml_backend_t) -> Vec<f32> {
    let a: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let b: [f32; 6] = [1.0, 0.0, -1.0, 2.0, 2.0, 2.0];
    let mut out = vec![0.0f32; 4];
    // SAFETY: every handle is created here, checked, used while its owner lives, and freed once; the byte
    // counts passed to tensor_set and tensor_get are those of the arrays.
    unsafe {
        let context = ggml_init(ggml_init_params {
            mem_size: 1 << 20,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        });
        assert!(!context.is_null());
        let x = ggml_new_tensor_2d(context, GGML_TYPE_F32, 3, 2);
        let y = ggml_new_tensor_2d(context, GGML_TYPE_F32, 3, 2);
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
        ggml_backend_tensor_set(x, a.as_ptr().cast(), 0, size_of_val(&a));
        ggml_backend_tensor_set(y, b.as_ptr().cast(), 0, size_of_val(&b));
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

const PRODUCT: [f32; 4] = [-2.0, -2.0, 12.0, 30.0];

#[test]
fn cpu_multiplies() {
    // SAFETY: the backend is freed after its last use.
    unsafe {
        let cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, std::ptr::null());
        assert!(!cpu.is_null());
        assert_eq!(mul_mat_on(cpu), PRODUCT);
        ggml_backend_free(cpu);
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
    for (name, expected) in [
        ("CPU", true),
        ("RPC", cfg!(feature = "rpc")),
        ("Vulkan", cfg!(feature = "vulkan")),
    ] {
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
        assert_eq!(mul_mat_on(remote), PRODUCT);
        ggml_backend_free(remote);
    }
}
