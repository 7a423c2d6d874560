//! The devices of this machine, and of RPC servers.

#![forbid(unsafe_code)]

use std::io::Write as _;

use anyhow::Result;
use oxling::ggml::{Device, add_rpc_server};

/// Connects to the RPC servers and gives all devices there are then, the servers' first.
pub fn devices(rpc: &[String]) -> Result<Vec<Device>> {
    let mut all = Vec::new();
    for endpoint in rpc {
        all.extend(add_rpc_server(endpoint)?);
    }
    for device in oxling::ggml::devices() {
        if !all.contains(&device) {
            all.push(device);
        }
    }
    Ok(all)
}

/// Prints names and memory of all devices.
pub fn list_devices(rpc: &[String]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Available devices:")?;
    for device in devices(rpc)? {
        let (free, total) = device.memory();
        let (free, total) = (free >> 20, total >> 20);
        writeln!(
            out,
            "  {}: {} ({total} MiB, {free} MiB free)",
            device.name(),
            device.description()
        )?;
    }
    Ok(())
}
