//! The pure state machine: sequences, queue, scheduler, block pool. No tokio, no clock, no I/O, no text.
