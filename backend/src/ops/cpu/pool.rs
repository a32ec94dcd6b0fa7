//! A fixed set of threads that run one short parallel region after another (5 to 1000 us each).
//!
//! The calling thread is worker 0. Waiting threads spin briefly, because a step is a few hundred
//! regions with microseconds between them, and then park, so that an idle server uses no processor
//! time. The caller waits only for tasks that a thread has taken: on a busy machine it does the work of
//! a thread that the system does not run. A cache line takes up to 200 ns from one core to another, so a
//! region costs as few of these journeys as it can. `CpuOps` owns the only pool. Which thread runs which
//! task is not fixed; a task's result must not depend on it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
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
/// Most tasks of a region that is shared; larger ones do not occur.
const MAX_TASKS: usize = 1 << 31;

/// A value alone in its cache lines (processors fetch them in pairs).
#[repr(align(128))]
struct Alone<T>(T);

/// Runs one task, on some worker, of the region that begins with this header.
type RunTask = unsafe fn(*const Header, usize, usize);

#[repr(C)]
struct Header {
    run: RunTask,
}

/// One region: `task(worker, i)`. Lives on the caller's stack.
#[repr(C)]
struct Region<F> {
    header: Header,
    task: F,
    panicked: AtomicBool,
}

impl<F: Fn(usize, usize) + Sync> Region<F> {
    /// # Safety
    /// `header` must begin a live `Region<F>`.
    unsafe fn run(header: *const Header, worker: usize, i: usize) {
        // SAFETY: the caller's promise; the header is the first field of a C struct.
        let region = unsafe { &*header.cast::<Self>() };
        if catch_unwind(AssertUnwindSafe(|| (region.task)(worker, i))).is_err() {
            region.panicked.store(true, Ordering::Relaxed);
        }
    }
}

/// The tasks that may be taken.
struct Open {
    /// Tasks of the region in the high half, and in the low half the first one that is not taken.
    tasks: AtomicU64,
    /// Valid while a task is taken or may be.
    region: AtomicPtr<Header>,
    stop: AtomicBool,
}

impl Open {
    /// Whether there is something to take.
    fn any(&self) -> bool {
        let tasks = self.tasks.load(Ordering::SeqCst);
        (tasks as u32) < (tasks >> 32) as u32
    }

    /// Takes a task. Looks first: `tasks` stays put while there is none, and counts no further than one
    /// for every thread behind the end.
    fn take(&self) -> Option<usize> {
        if !self.any() {
            return None;
        }
        let tasks = self.tasks.fetch_add(1, Ordering::SeqCst);
        let i = tasks as u32;
        (i < (tasks >> 32) as u32).then_some(i as usize)
    }
}

struct Shared {
    open: Alone<Open>,
    /// Tasks of the current region that are done.
    done: Alone<AtomicUsize>,
    /// Of each worker.
    parked: Vec<Alone<AtomicBool>>,
}

impl Shared {
    /// Runs tasks until none is left to take.
    fn work(&self, worker: usize) {
        while let Some(i) = self.open.0.take() {
            let region = self.open.0.region.load(Ordering::Relaxed);
            // SAFETY: `Pool::run` stored a pointer to the header of a live region before it opened its
            // tasks. It keeps the region alive, and opens no other, until all its tasks are `done`, and the
            // one that was just taken is not. `run` is the region's own.
            unsafe { ((*region).run)(region, worker, i) };
            self.done.0.fetch_add(1, Ordering::Release);
        }
    }
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
        let open = Open { tasks: 0.into(), region: AtomicPtr::new(null_mut()), stop: false.into() };
        let parked = (0..extra).map(|_| Alone(AtomicBool::new(false))).collect();
        let shared = Arc::new(Shared { open: Alone(open), done: Alone(0.into()), parked });
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
    /// below `n_threads` and no two calls at a time have the same. A panic in a task is passed on, when
    /// the others are done.
    pub fn run<F: Fn(usize, usize) + Sync>(&mut self, n_tasks: usize, task: F) {
        if n_tasks <= 1 || n_tasks > MAX_TASKS || self.workers.is_empty() {
            return (0..n_tasks).for_each(|i| task(0, i));
        }
        let header = Header { run: Region::<F>::run };
        let region = Region { header, task, panicked: AtomicBool::new(false) };
        self.open(&region.header, n_tasks);
        self.shared.work(0);
        self.wait(n_tasks);
        assert!(!region.panicked.load(Ordering::Relaxed), "a task panicked, see above");
    }

    fn open(&self, region: &Header, n_tasks: usize) {
        let open = &self.shared.open.0;
        self.shared.done.0.store(0, Ordering::Relaxed);
        open.region.store(std::ptr::from_ref(region).cast_mut(), Ordering::Relaxed);
        open.tasks.store((n_tasks as u64) << 32, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        for (parked, thread) in self.shared.parked.iter().zip(&self.threads) {
            if parked.0.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
    }

    /// Until the tasks that others took are done: the region lives on the caller's stack.
    fn wait(&self, n_tasks: usize) {
        let mut spins = 0;
        while self.shared.done.0.load(Ordering::Acquire) != n_tasks {
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
        self.shared.open.0.stop.store(true, Ordering::SeqCst);
        self.wake();
        for worker in self.workers.drain(..) {
            // Workers catch panics of tasks, so there is nothing to learn from the result.
            drop(worker.join());
        }
    }
}

/// A worker's life.
fn serve(shared: &Shared, index: usize) {
    let open = &shared.open.0;
    while !open.stop.load(Ordering::SeqCst) {
        shared.work(index + 1);
        wait_for_tasks(open, &shared.parked[index].0);
    }
}

/// Until there is a task to take, or the end: spins, then parks.
fn wait_for_tasks(open: &Open, parked: &AtomicBool) {
    let wanted = || open.any() || open.stop.load(Ordering::SeqCst);
    let start = Instant::now();
    while start.elapsed() < SPIN {
        for _ in 0..SPINS_PER_LOOK {
            if wanted() {
                return;
            }
            std::hint::spin_loop();
        }
    }
    // The flag is raised before the look, and `Pool` changes what is looked at before it reads the flag:
    // one of the two sees the other.
    parked.store(true, Ordering::SeqCst);
    while !wanted() {
        std::thread::park();
    }
    parked.store(false, Ordering::SeqCst);
}
