//! Whether this process can use a GPU: asked once by the shard's `main`, before anything else of `cuda`.
//!
//! Opens the driver and asks it for versions and devices; makes no context, allocates nothing, and never panics.

use cudarc::driver::result::{self, DriverError, device};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use thiserror::Error;

/// The oldest devices that kernels are compiled for: 10 major + minor.
const MIN_CAPABILITY: i32 = 80;
/// CUDA's version that the kernels are linked with: 1000 major + 10 minor.
const BUILT_WITH: &str = env!("QUERN_CUDA_VERSION");

/// Why there is no GPU to use, and what to do about it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unavailable {
    #[error(
        "no NVIDIA driver (libcuda.so.1 was not found); install one, or give the container the GPU (docker run --gpus all)"
    )]
    NoDriver,
    #[error(
        "the NVIDIA driver supports CUDA {}, the kernels need CUDA {} or newer; install a newer driver",
        dotted(*.found), dotted(*.needed)
    )]
    OldDriver { found: i32, needed: i32 },
    #[error("the NVIDIA driver sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES")]
    NoDevice,
    #[error("{name} has compute capability {}, the kernels need 8.0 or newer", capability_name(*.capability))]
    OldDevice { name: String, capability: i32 },
    #[error("the NVIDIA driver does not work: {0}; check nvidia-smi")]
    Driver(String),
}

fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn capability_name(capability: i32) -> String {
    format!("{}.{}", capability / 10, capability % 10)
}

impl From<DriverError> for Unavailable {
    fn from(error: DriverError) -> Self {
        match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => Self::NoDevice,
            _ => Self::Driver(format!("{error:?}")),
        }
    }
}

/// `Ok` if device 0 and its driver can run the kernels.
///
/// # Errors
/// The reason, in the order in which it would be met.
pub fn available() -> Result<(), Unavailable> {
    // SAFETY: opens libcuda.so, whose initialisers are NVIDIA's and take no arguments.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unavailable::NoDriver);
    }
    check_version(
        driver_version()?,
        BUILT_WITH.parse().map_err(|error| Unavailable::Driver(format!("{error}")))?,
    )?;
    result::init()?;
    match device::get_count()? {
        0 => Err(Unavailable::NoDevice),
        _ => check_device(device::get(0)?),
    }
}

/// Works before `cuInit`.
fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: writes one int where it is told to.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// A driver runs all programs of its own major version of CUDA and of older ones.
fn check_version(found: i32, needed: i32) -> Result<(), Unavailable> {
    match found / 1000 < needed / 1000 {
        true => Err(Unavailable::OldDriver { found, needed }),
        false => Ok(()),
    }
}

fn check_device(device: sys::CUdevice) -> Result<(), Unavailable> {
    // SAFETY: `device` came from the driver.
    let read = |attribute| unsafe { device::get_attribute(device, attribute) };
    let major = read(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = read(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let capability = 10 * major + minor;
    match capability < MIN_CAPABILITY {
        true => Err(Unavailable::OldDevice { name: device::get_name(device)?, capability }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_run_their_own_major_version_and_older_ones() {
        for (found, needed, runs) in [
            (13000, 13000, true),
            (13020, 13000, true),
            (13000, 13020, true),
            (14000, 13000, true),
            (12090, 13000, false),
        ] {
            assert_eq!(check_version(found, needed).is_ok(), runs, "driver {found}, kernels {needed}");
        }
    }

    #[test]
    fn every_reason_says_what_was_found_and_what_to_do() {
        for (reason, expected) in [
            (Unavailable::OldDriver { found: 12040, needed: 13000 }, "CUDA 12.4, the kernels need CUDA 13.0"),
            (
                Unavailable::OldDevice { name: "Tesla T4".into(), capability: 75 },
                "Tesla T4 has compute capability 7.5",
            ),
            (Unavailable::from(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)), "CUDA_VISIBLE_DEVICES"),
        ] {
            assert!(reason.to_string().contains(expected), "{reason}");
        }
    }

    /// Holds on every machine: with a GPU, with a driver alone, and with neither.
    #[test]
    fn asking_twice_gives_the_same_answer() {
        assert_eq!(available(), available());
    }
}
