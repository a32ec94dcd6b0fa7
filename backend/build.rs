//! With feature `cuda`: compiles the CUDA kernels and writes the bindings of their C header. Without it: nothing.
//!
//! `csrc/build.sh` alone knows how nvcc is found and called. Objects stay in the target folder's `csrc/`, shared by all
//! profiles and by `make cuda-kernels`, so that a kernel is compiled once; the archive is copied to OUT_DIR.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda::build()?;
    Ok(())
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::error::Error;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::{env, fs};

    type Result<T> = std::result::Result<T, Box<dyn Error>>;

    /// What decides how kernels are compiled, beside their sources.
    const VARIABLES: [&str; 6] = [
        "CUDA_HOME",
        "CUDA_PATH",
        "LIBCLANG_PATH",
        "BINDGEN_EXTRA_CLANG_ARGS",
        "QUERN_CUDA_ARCHS",
        "QUERN_NVCC_FLAGS",
    ];
    const LIBRARY: &str = "libquern_kernels.a";

    pub fn build() -> Result<()> {
        let root = fs::canonicalize("..")?;
        let out = PathBuf::from(env::var("OUT_DIR")?);
        for variable in VARIABLES {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        for path in ["build.sh", "include", "src"] {
            println!("cargo:rerun-if-changed={}", root.join("csrc").join(path).display());
        }
        let script = root.join("csrc/build.sh");
        let toolkit = PathBuf::from(run(Command::new(&script).arg("--toolkit"))?);
        let objects = target(&out)?.join("csrc");
        run(Command::new(&script).arg("--library").arg(&objects))?;
        fs::copy(objects.join(LIBRARY), out.join(LIBRARY))?;
        link(&toolkit, &out);
        println!("cargo:rustc-env=QUERN_CUDA_VERSION={}", toolkit_version(&toolkit)?);
        bindings(&root, &out.join("quern_kernels.rs"))
    }

    /// The target folder: OUT_DIR is TARGET/PROFILE/build/PACKAGE/out.
    fn target(out: &Path) -> Result<&Path> {
        out.ancestors()
            .nth(4)
            .ok_or_else(|| format!("OUT_DIR is {}: not below a target folder", out.display()).into())
    }

    /// What a command prints on stdout; its stderr is cargo's to show.
    fn run(command: &mut Command) -> Result<String> {
        let output =
            command.stderr(Stdio::inherit()).output().map_err(|error| format!("{command:?}: {error}"))?;
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?.trim().to_owned()),
            false => Err(format!(
                "{command:?} failed; feature `cuda` needs nvcc (`make cuda-toolkit` installs it)"
            )
            .into()),
        }
    }

    /// The CUDA runtime is linked statically and opens the driver at run time, so the binary starts without one.
    fn link(toolkit: &Path, out: &Path) {
        for folder in [out.to_owned(), toolkit.join("lib64"), toolkit.join("lib")] {
            println!("cargo:rustc-link-search=native={}", folder.display());
        }
        println!("cargo:rustc-link-lib=static=quern_kernels");
        println!("cargo:rustc-link-lib=static=cudart_static");
        for library in ["dl", "rt", "pthread"] {
            println!("cargo:rustc-link-lib={library}");
        }
    }

    /// CUDA's version as the driver counts it: 1000 major + 10 minor.
    fn toolkit_version(toolkit: &Path) -> Result<u32> {
        let header = toolkit.join("include/cuda.h");
        let text = fs::read_to_string(&header).map_err(|error| format!("{}: {error}", header.display()))?;
        let version = text.lines().find_map(|line| line.strip_prefix("#define CUDA_VERSION "));
        let version = version.ok_or_else(|| format!("{}: no CUDA_VERSION", header.display()))?;
        Ok(version.trim().parse()?)
    }

    fn bindings(root: &Path, path: &Path) -> Result<()> {
        find_libclang(&root.join(".cuda/libclang"));
        // The libclang wheel comes without stddef.h; the C compiler has one.
        let include = run(Command::new("cc").arg("-print-file-name=include"))?;
        let builder = bindgen::Builder::default()
            .header(root.join("csrc/include/quern_kernels.h").display().to_string())
            .clang_args(["-isystem", &include])
            .allowlist_item("(?i)quern_?.*")
            .default_macro_constant_type(bindgen::MacroTypeVariation::Signed)
            .prepend_enum_name(false)
            .derive_default(true);
        // bindgen panics where there is no libclang.
        let generated = catch_unwind(AssertUnwindSafe(|| builder.generate()));
        let generated = generated.map_err(|_| {
            "feature `cuda` needs libclang for bindgen: run `make cuda-toolkit`, or set LIBCLANG_PATH to the folder of libclang.so"
        })?;
        Ok(generated?.write_to_file(path)?)
    }

    fn find_libclang(installed: &Path) {
        if env::var_os("LIBCLANG_PATH").is_none() && installed.is_dir() {
            // SAFETY: a build script has one thread until bindgen is called.
            unsafe { env::set_var("LIBCLANG_PATH", installed) };
        }
    }
}
