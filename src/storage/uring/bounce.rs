//! Memory between a job's own and a device that takes whole units only.
//!
//! Not frame memory: it is not registered with the ring, and nobody but the storage knows of it.
//! Invariant: a buffer is touched by us only while the kernel does not work on it, which whoever holds its number knows.
#![allow(unsafe_code)]

use super::units::BOUNCE;
use std::cell::UnsafeCell;

/// Aligned as strictly as any device that is bounced for asks.
#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; BOUNCE]>);

const _: () = assert!(align_of::<Page>() == crate::limits::BOUNCE_UNIT as usize);

/// Buffers by number, of which the free ones can be taken.
#[derive(Default)]
pub(super) struct Bounces {
    // Boxed each for itself, because the kernel has their addresses when there come to be more.
    pages: Vec<Box<Page>>,
    free: Vec<u16>,
}

impl Bounces {
    /// Sees to it that there are so many at least.
    pub fn reserve(&mut self, count: usize) {
        while self.pages.len() < count {
            // Less than there are files and common ones together.
            self.free.push(self.pages.len() as u16);
            self.pages.push(Box::new(Page(UnsafeCell::new([0; BOUNCE]))));
        }
        // So that none allocates when it comes back.
        self.free.reserve(self.pages.len() - self.free.len());
    }

    pub fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    pub fn put(&mut self, bounce: u16) {
        self.free.push(bounce);
    }

    /// Where it lies, for the kernel.
    pub fn address(&self, bounce: u16) -> *mut u8 {
        self.pages[usize::from(bounce)].0.get().cast()
    }

    /// Its bytes. Only while the kernel does not work on it.
    pub fn bytes(&mut self, bounce: u16) -> &mut [u8; BOUNCE] {
        // SAFETY: borrowed mutably with all of them, so there is no other reference; and the kernel does not write to it,
        // as the storage asks for the bytes only between two steps of the job that holds it.
        unsafe { &mut *self.pages[usize::from(bounce)].0.get() }
    }

    /// Leaves them all to the kernel for good, which may still write there.
    pub fn abandon(&mut self) {
        std::mem::forget(std::mem::take(&mut self.pages));
    }
}
