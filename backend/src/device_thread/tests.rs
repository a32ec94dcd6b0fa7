//! How a device thread starts and ends.

use super::*;
use crate::model::load;
use crate::model::tiny::{Kind, Tiny};

fn options(model_path: std::path::PathBuf) -> Options {
    Options { model_path, quantize: None, device: DeviceKind::Cpu { n_threads: 2 }, dummy_weights: false }
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_an_error() {
    let thread = DeviceThread::spawn(options("/no/such/model".into())).unwrap();
    let error = thread.ready().await.err().unwrap().to_string();
    assert!(error.contains("/no/such/model"), "{error}");
}

#[tokio::test]
async fn the_thread_ends_with_its_device() {
    let tiny = Tiny::new(Kind::Qwen);
    let thread = DeviceThread::spawn(options(tiny.dir.path().to_path_buf())).unwrap();
    let (device, thread) = thread.ready().await.unwrap();
    assert_eq!(device.info.config, tiny.config);
    assert_eq!(device.info.kv_bytes_per_token, 2 * 2 * 64 * 4);
    drop(device);
    assert_eq!(thread.failed().await.to_string(), "the device thread ended");
}

#[tokio::test]
async fn a_panic_is_told() {
    let (alive, ended) = flume::bounded(1);
    let (_never, ready) = flume::bounded(1);
    let thread = std::thread::spawn(move || {
        let _alive: flume::Sender<()> = alive;
        panic!("index {} out of range", 3);
    });
    let error = DeviceThread { thread, ready, ended }.failed().await.to_string();
    assert_eq!(error, "the device thread panicked: index 3 out of range");
}

#[tokio::test]
async fn made_up_weights_need_no_checkpoint() {
    for kind in [Kind::Qwen, Kind::Qwen2, Kind::Llama] {
        let tiny = Tiny::new(kind);
        let checkpoint = crate::weights::Checkpoint::open(tiny.dir.path()).unwrap();
        let stored = load::weight_bytes(&mut CpuSizes::default(), &tiny.config, &checkpoint).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(tiny.dir.path().join("config.json"), dir.path().join("config.json")).unwrap();
        let options = Options { dummy_weights: true, ..options(dir.path().to_path_buf()) };
        let (device, _thread) = DeviceThread::spawn(options).unwrap().ready().await.unwrap();
        assert_eq!(device.info.weight_bytes, stored, "{kind:?}");
    }
}
