//! `xshelf serve`
pub mod slots;
