//! The value of the x-compute-type header: which device answers, as TGI's launcher words it. Used by `startup`.

use std::path::Path;

use axum::http::HeaderValue;

/// Where NVIDIA's driver describes its devices: one folder each.
pub const NVIDIA_DEVICES: &str = "/proc/driver/nvidia/gpus";
/// What TGI says of a GPU whose name it does not know.
const SOME_GPU: HeaderValue = HeaderValue::from_static("gpu+optimized");

/// `<shards>-<device>`, as in `1-nvidia-h100-80gb-hbm3`; `cpu` without a GPU.
pub fn of(device_type: &str, nvidia_devices: &Path) -> HeaderValue {
    if device_type != "cuda" {
        return HeaderValue::from_static("cpu");
    }
    let name = gpu_name(nvidia_devices).map(|name| name.to_lowercase().replace(' ', "-"));
    name.and_then(|name| format!("1-{name}").parse().ok()).unwrap_or(SOME_GPU)
}

/// The model of the first device, in the order of their bus addresses.
fn gpu_name(nvidia_devices: &Path) -> Option<String> {
    let mut devices: Vec<_> =
        std::fs::read_dir(nvidia_devices).ok()?.flatten().map(|one| one.path()).collect();
    devices.sort();
    let text = std::fs::read_to_string(devices.first()?.join("information")).ok()?;
    let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim();
    (!model.is_empty()).then(|| model.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of("cpu", dir.path()), "cpu");
        assert_eq!(of("cuda", dir.path()), "gpu+optimized");
        for (bus, model) in [("0000:3b:00.0", "NVIDIA L4"), ("0000:18:00.0", "NVIDIA H100 80GB HBM3")] {
            std::fs::create_dir(dir.path().join(bus)).unwrap();
            let text = format!("Model: \t\t {model}\nIRQ:   \t\t 42\n");
            std::fs::write(dir.path().join(bus).join("information"), text).unwrap();
        }
        assert_eq!(of("cuda", dir.path()), "1-nvidia-h100-80gb-hbm3");
    }
}
