//! What the rest of `cuda` needs of the driver: one context and stream, memory of the device, page-locked
//! memory of the host, copies between them, and errors that say which call failed.
//!
//! Owned by the device thread. Every copy and launch goes to the one stream, so their order is the
//! order of the calls. Nothing here knows about models.

use std::ffi::{CStr, c_void};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaStream};

use super::sys;
use crate::error::{LoadError, StepError};

/// A call that the driver or a kernel's entry point refused, or an earlier launch that failed.
#[derive(Debug, thiserror::Error)]
#[error("{op}: {detail}")]
pub struct CudaError {
    pub op: &'static str,
    pub detail: String,
}

impl From<CudaError> for LoadError {
    fn from(CudaError { op, detail }: CudaError) -> LoadError {
        LoadError::Device { op, detail }
    }
}

impl From<CudaError> for StepError {
    fn from(CudaError { op, detail }: CudaError) -> StepError {
        StepError::Device { op, detail }
    }
}

/// Names the call that failed.
pub fn named<T>(op: &'static str, result: Result<T, DriverError>) -> Result<T, CudaError> {
    result.map_err(|error| CudaError { op, detail: format!("CUDA says {error:?}") })
}

/// Turns the status of a kernel's entry point into a result.
pub fn check(op: &'static str, status: i32) -> Result<(), CudaError> {
    if status == sys::QUERN_OK as i32 {
        return Ok(());
    }
    // SAFETY: the function takes any number and returns a string that is never freed.
    let message = unsafe { CStr::from_ptr(sys::quern_status_message(status)) };
    Err(CudaError { op, detail: message.to_string_lossy().into_owned() })
}

/// An opened device with its one stream.
pub struct Gpu {
    context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    /// What launches need to know.
    pub device: sys::QuernDevice,
    pub name: String,
}

impl Gpu {
    /// Opens device 0 of those that CUDA_VISIBLE_DEVICES leaves. `available()` must have said yes.
    pub fn open() -> Result<Gpu, CudaError> {
        let context = named("open the GPU", CudaContext::new(0))?;
        // SAFETY: memory is shared by one stream only, so there is nothing to track.
        unsafe { context.disable_event_tracking() };
        let stream = named("make a stream", context.new_stream())?;
        let mut device = sys::QuernDevice::default();
        // SAFETY: `device` is writable.
        check("prepare the kernels", unsafe { sys::quern_device_open(0, &mut device) })?;
        let name = named("name the GPU", context.name())?;
        Ok(Gpu { context, stream, device, name })
    }

    /// Bytes free and in all.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        named("read the GPU's memory", self.context.mem_get_info())
    }

    /// Bytes that may still be taken when `fraction` of the device's memory is ours and other processes'.
    pub fn available(&self, fraction: f64) -> Result<usize, CudaError> {
        let (free, total) = self.memory()?;
        Ok(((total as f64 * fraction) as usize).saturating_sub(total - free))
    }

    pub fn stream_pointer(&self) -> *mut c_void {
        self.stream.cu_stream().cast()
    }

    /// Waits for everything so far.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        named("wait for the GPU", self.stream.synchronize())
    }

    /// Copies to the device in the stream's order; `from` must not change until then.
    ///
    /// # Safety
    /// `to` is a range of device memory of `from`'s length; page-locked `from` outlives the copy.
    pub unsafe fn upload(&self, from: &[u8], to: u64) -> Result<(), CudaError> {
        // SAFETY: as the caller promises.
        named("copy to the GPU", unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) })
    }

    /// Copies to the host in the stream's order.
    ///
    /// # Safety
    /// `from` is a range of device memory of `to`'s length; nobody looks at `to` before the copy is done.
    pub unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: as the caller promises.
        named("copy from the GPU", unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) })
    }

    /// Zeroes in the stream's order.
    ///
    /// # Safety
    /// `at` is a range of device memory of `bytes` bytes.
    pub unsafe fn zero(&self, at: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: as the caller promises.
        named("zero GPU memory", unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) })
    }
}

/// Device memory, given back when dropped.
pub struct DeviceMemory {
    pub address: u64,
    pub bytes: usize,
}

impl DeviceMemory {
    /// At least one byte; contents are unspecified.
    pub fn new(what: &'static str, bytes: usize) -> Result<DeviceMemory, LoadError> {
        let bytes = bytes.max(1);
        // SAFETY: the driver checks the size.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(DeviceMemory { address, bytes }),
            Err(_) => Err(LoadError::Memory { what, bytes }),
        }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: it was allocated by `new` and nobody has freed it. Freeing waits for the device.
        if let Err(error) = unsafe { result::free_sync(self.address) } {
            tracing::warn!("Cannot free GPU memory: {error:?}");
        }
    }
}

/// Page-locked host memory, which the device reads and writes by itself.
pub struct PinnedMemory {
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: it is plain memory that one owner at a time uses.
unsafe impl Send for PinnedMemory {}

impl PinnedMemory {
    /// Zeroed.
    pub fn new(bytes: usize) -> Result<PinnedMemory, LoadError> {
        let bytes = bytes.max(1);
        // SAFETY: the driver checks the size; the memory is at least page-aligned.
        match unsafe { result::malloc_host(bytes, 0) } {
            Ok(pointer) => {
                let mut memory = PinnedMemory { pointer: pointer.cast(), bytes };
                memory.fill(0);
                Ok(memory)
            }
            Err(_) => Err(LoadError::Memory { what: "page-locked host memory", bytes }),
        }
    }
}

impl Deref for PinnedMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `new` allocated that many bytes, and they were initialised.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }
}

impl DerefMut for PinnedMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: it was allocated by `new` and nobody has freed it.
        if let Err(error) = unsafe { result::free_host(self.pointer.cast()) } {
            tracing::warn!("Cannot free page-locked memory: {error:?}");
        }
    }
}
