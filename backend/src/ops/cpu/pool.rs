//! A fixed set of threads that run one short parallel region after another (10 to 1000 us each).
//!
//! The calling thread is worker 0. Waiting threads spin briefly, because a step is a few hundred
//! regions with microseconds between them, and then park, so that an idle server uses no processor
//! time. The caller waits only for threads that have taken a task: on a busy machine it does the work
//! of a thread that the system does not run. `CpuOps` owns the only pool. Which thread runs which task
//! is not fixed; a task's result must not depend on it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
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

/// `Shared::state`: the low bits count the workers inside the region, then one bit says whether more
/// may enter, and the rest counts regions.
const INSIDE: u64 = OPEN - 1;
const OPEN: u64 = 1 << 16;
const EPOCH: u64 = 1 << 17;

/// What the threads share.
struct Shared {
    state: AtomicU64,
    /// The current region; valid while `state` is open or somebody is inside.
    region: AtomicPtr<Region<'static>>,
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
            state: AtomicU64::new(0),
            region: AtomicPtr::new(std::ptr::null_mut()),
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
        // The last region was closed and left by all, so this adds to a state without low bits.
        shared.state.fetch_add(EPOCH + OPEN, Ordering::SeqCst);
        for (parked, thread) in shared.parked.iter().zip(&self.threads) {
            if parked.swap(false, Ordering::SeqCst) {
                thread.unpark();
            }
        }
    }

    /// Closes the region, which lives on the caller's stack, and waits until nobody is inside.
    fn wait(&self) {
        let mut spins = 0;
        self.shared.state.fetch_and(!OPEN, Ordering::SeqCst);
        while self.shared.state.load(Ordering::Acquire) & INSIDE != 0 {
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
        self.shared.state.fetch_add(EPOCH, Ordering::SeqCst);
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
        if !enter(shared) {
            continue;
        }
        // SAFETY: `publish` stored a pointer to a live region before it opened `state`; this worker has
        // entered while it was open, and the caller keeps the region alive, and publishes no other,
        // until nobody is inside. The worker leaves after its last use of it.
        let region = unsafe { &*shared.region.load(Ordering::Relaxed) };
        if catch_unwind(AssertUnwindSafe(|| region.work(index + 1))).is_err() {
            region.panicked.store(true, Ordering::Relaxed);
        }
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

/// Joins the current region unless it is closed: then the others have done all of it.
fn enter(shared: &Shared) -> bool {
    let join = |state| Some(state + 1).filter(|_| state & OPEN != 0);
    shared.state.fetch_update(Ordering::SeqCst, Ordering::Relaxed, join).is_ok()
}

/// Waits until a region begins after the `seen`-th: spins, then parks. Returns its number.
fn next_epoch(shared: &Shared, index: usize, seen: u64) -> u64 {
    let changed = || Some(shared.state.load(Ordering::SeqCst) / EPOCH).filter(|&now| now != seen);
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
        // The flag is raised before the last look at `state`, and `publish` changes `state` before it
        // reads the flag: one of the two sees the other.
        shared.parked[index].store(true, Ordering::SeqCst);
        if let Some(now) = changed() {
            shared.parked[index].store(false, Ordering::SeqCst);
            return now;
        }
        std::thread::park();
    }
}
