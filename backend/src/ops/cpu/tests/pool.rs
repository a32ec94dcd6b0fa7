//! Threads and the rectangles they write.

use crate::ops::cpu::grid::Cuts;
use crate::ops::cpu::pool::Pool;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn every_task_runs_once() {
    for n_threads in [0, 1, 2, 5] {
        let mut pool = Pool::new(n_threads);
        for n_tasks in [0, 1, 2, 3, 100] {
            let counts: Vec<_> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
            let n = pool.n_threads();
            pool.run(n_tasks, |worker, i| {
                assert!(worker < n);
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn wakes_after_a_pause() {
    let mut pool = Pool::new(3);
    let count = AtomicUsize::new(0);
    for round in 0..200 {
        if round % 50 == 0 {
            // Long past the spinning, so that the workers are parked.
            std::thread::park_timeout(std::time::Duration::from_millis(2));
        }
        pool.run(4, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(count.load(Ordering::Relaxed), 800);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let mut pool = Pool::new(3);
    for _ in 0..20 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(30, |_, i| assert_ne!(i, 17, "expected by the test"));
        }));
        assert!(result.is_err());
    }
    let count = AtomicUsize::new(0);
    pool.run(30, |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(count.load(Ordering::Relaxed), 30);
}

#[test]
fn rectangles_cover_exactly_their_cuts() {
    let mut pool = Pool::new(2);
    let (height, width) = (7, 11);
    let within = Cuts::Within { start: 2, end: 9, step: 3 };
    for (rows, cols, covered) in [
        (Cuts::Every(3), Cuts::Every(4), 77),
        (Cuts::At(&[0, 0, 2, 7]), Cuts::Every(usize::MAX), 77),
        (Cuts::At(&[1, 3]), within, 14),
        (Cuts::Every(1), within, 49),
        (Cuts::At(&[]), within, 0),
    ] {
        let mut matrix = vec![0u32; height * width];
        pool.grid(&mut matrix, width, (rows, cols), |_, mut rect| {
            for r in rect.rows() {
                rect.row(r).iter_mut().for_each(|x| *x += 1);
            }
        });
        assert!(matrix.iter().all(|&x| x <= 1), "{rows:?} {cols:?}");
        assert_eq!(matrix.iter().sum::<u32>(), covered, "{rows:?} {cols:?}");
    }
}

#[test]
fn refuses_cuts_that_overlap_or_leave_the_matrix() {
    let mut pool = Pool::new(1);
    let mut refuses = |rows: Cuts<'_>, cols: Cuts<'_>| {
        let mut matrix = vec![0u8; 20];
        catch_unwind(AssertUnwindSafe(|| pool.grid(&mut matrix, 5, (rows, cols), |_, _| {}))).is_err()
    };
    assert!(refuses(Cuts::At(&[0, 3, 2]), Cuts::Every(5)));
    assert!(refuses(Cuts::At(&[0, 5]), Cuts::Every(5)));
    assert!(refuses(Cuts::Every(1), Cuts::Within { start: 0, end: 6, step: 1 }));
    assert!(!refuses(Cuts::At(&[0, 4]), Cuts::Within { start: 0, end: 5, step: 2 }));
}
