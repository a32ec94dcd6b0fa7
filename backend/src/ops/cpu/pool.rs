//! A fixed set of threads that run one short parallel region after another (10 to 1000 us each).
//!
//! The calling thread is worker 0. Waiting threads spin briefly, because a step is a few hundred
//! regions with microseconds between them, and then park, so that an idle server uses no processor
//! time. `CpuOps` owns the only pool. Which thread runs which task is not fixed; a task's result must
//! not depend on it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a worker spins for the next region before it parks.
const SPIN: Duration = Duration::from_micros(50);
/// Spins between looks at the clock.
const SPINS_PER_LOOK: u32 = 64;
/// The caller yields its processor after this many spins, in case a worker waits for one.
const SPINS_BEFORE_YIELD: u32 = 20_000;

/// One region: `task(worker, i)` for each `i` below `n_tasks`, each claimed by one thread.
struct Region<'a> {
    task: &'a (dyn Fn(usize, usize) + Sync),
    n_tasks: usize,
    next: AtomicUsize,
    panicked: AtomicBool,
}

impl Region<'_> {
    fn work(&self, worker: usize) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.n_tasks {
                return;
            }
            (self.task)(worker, i);
        }
    }
}

/// What the threads share. `epoch` counts regions; bit 0 unused.
struct Shared {
    epoch: AtomicUsize,
    /// The current region; valid from the change of `epoch` until `running` is zero.
    region: AtomicPtr<Region<'static>>,
    /// Workers that have not finished the current region.
    running: AtomicUsize,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
}

/// `n` threads, the caller's included.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    threads: Vec<Thread>,
}

impl Pool {
    /// Starts `n_threads - 1` threads (0 counts as 1). A thread that the system refuses is done without.
    pub fn new(n_threads: usize) -> Self {
        let extra = n_threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            region: AtomicPtr::new(std::ptr::null_mut()),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            parked: (0..extra).map(|_| AtomicBool::new(false)).collect(),
        });
        let workers: Vec<_> = (0..extra)
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                let name = format!("cpu-ops-{}", i + 1);
                std::thread::Builder::new().name(name).spawn(move || serve(&shared, i)).ok()
            })
            .collect();
        let threads = workers.iter().map(|w| w.thread().clone()).collect();
        Pool { shared, workers, threads }
    }

    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(worker, i)` once for every `i < n_tasks` and returns when all are done; `worker` is
    /// below `n_threads` and no two calls at a time have the same. A panic in a task is passed on.
    pub fn run(&mut self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let region = Region { task, n_tasks, next: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
        if n_tasks <= 1 || self.workers.is_empty() {
            return region.work(0);
        }
        self.publish(&region);
        let own = catch_unwind(AssertUnwindSafe(|| region.work(0)));
        self.wait();
        match own {
            Err(panic) => resume_unwind(panic),
            Ok(()) if region.panicked.load(Ordering::Relaxed) => {
                panic!("a worker thread panicked, see above")
            }
            Ok(()) => {}
        }
    }

    fn publish(&self, region: &Region<'_>) {
        let shared = &*self.shared;
        shared.region.store(std::ptr::from_ref(region).cast_mut().cast(), Ordering::Relaxed);
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (parked, thread) in shared.parked.iter().zip(&self.threads) {
            if parked.swap(false, Ordering::SeqCst) {
                thread.unpark();
            }
        }
    }

    /// Until every worker has left the region, which lives on the caller's stack.
    fn wait(&self) {
        let mut spins = 0;
        while self.shared.running.load(Ordering::Acquire) != 0 {
            std::hint::spin_loop();
            spins += 1;
            if spins > SPINS_BEFORE_YIELD {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // Workers catch panics of tasks, so there is nothing to learn from the result.
            drop(worker.join());
        }
    }
}

/// A worker's life.
fn serve(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = next_epoch(shared, index, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: `publish` stored a pointer to a live region before it changed `epoch`, and the caller
        // keeps the region alive, and publishes no other, until `running` is zero, which this worker
        // brings about only after its last use of it.
        let region = unsafe { &*shared.region.load(Ordering::Relaxed) };
        if catch_unwind(AssertUnwindSafe(|| region.work(index + 1))).is_err() {
            region.panicked.store(true, Ordering::Relaxed);
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

/// Waits until `epoch` differs from `seen`: spins, then parks.
fn next_epoch(shared: &Shared, index: usize, seen: usize) -> usize {
    let changed = || Some(shared.epoch.load(Ordering::SeqCst)).filter(|&now| now != seen);
    let start = Instant::now();
    while start.elapsed() < SPIN {
        for _ in 0..SPINS_PER_LOOK {
            if let Some(now) = changed() {
                return now;
            }
            std::hint::spin_loop();
        }
    }
    loop {
        // The flag is raised before the last look at `epoch`, and `publish` changes `epoch` before it
        // reads the flag: one of the two sees the other.
        shared.parked[index].store(true, Ordering::SeqCst);
        if let Some(now) = changed() {
            shared.parked[index].store(false, Ordering::SeqCst);
            return now;
        }
        std::thread::park();
    }
}
