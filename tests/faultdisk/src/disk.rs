//! The disk: files and names, each as it looks now and as it would look after a power cut.
//!
//! Not here: FUSE (`fuse`), which requests fail or hang (`faults`). Pure.
//! Invariant: what is pending was never promised; a cut keeps everything that was synced, and of the rest any part.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;

/// Bytes of the unit that is allocated.
pub const BLOCK: u64 = 4096;
/// Bytes pending in a file before the oldest become durable by themselves, as in any disk's cache.
const CACHE: usize = 64 << 20;

/// Why something cannot be done, as errno(3).
pub type Errno = i32;

/// A small generator of numbers that look random (splitmix64, Steele et al. 2014).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }
}

#[derive(Debug)]
enum Change {
    Write { at: u64, data: Vec<u8> },
    Zero { range: Range<u64> },
    Resize(u64),
}

impl Change {
    fn range(&self) -> Range<u64> {
        match self {
            Self::Write { at, data } => *at..*at + data.len() as u64,
            Self::Zero { range } => range.clone(),
            Self::Resize(size) => *size..u64::MAX,
        }
    }

    fn bytes(&self) -> usize {
        if let Self::Write { data, .. } = self { data.len() } else { 0 }
    }

    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { at, data } => put(to, *at, data),
            Self::Zero { range } => {
                let end = range.end.min(to.len() as u64) as usize;
                if let Some(bytes) = to.get_mut(range.start as usize..end) {
                    bytes.fill(0);
                }
            }
            Self::Resize(size) => to.resize(*size as usize, 0),
        }
    }
}

fn put(to: &mut Vec<u8>, at: u64, data: &[u8]) {
    let (at, end) = (at as usize, at as usize + data.len());
    if to.len() < end {
        to.resize(end, 0);
    }
    to[at..end].copy_from_slice(data);
}

/// A file.
#[derive(Debug, Default)]
pub struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: VecDeque<Change>,
    pending_bytes: usize,
    /// Written, and never to be durable: a sync of it failed.
    doomed: Vec<Range<u64>>,
    allocated: HashSet<u64>,
    /// Permission bits.
    pub mode: u32,
    /// Descriptors of it.
    pub open: u32,
}

impl File {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.now.len() as u64
    }

    /// Bytes allocated.
    pub fn allocated(&self) -> u64 {
        self.allocated.len() as u64 * BLOCK
    }

    /// Changes that a cut may undo.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The content, as far as it goes.
    pub fn read(&self, at: u64, length: u64) -> &[u8] {
        let end = at.saturating_add(length).min(self.size());
        self.now.get(at.min(end) as usize..end as usize).unwrap_or_default()
    }

    fn push(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending_bytes += change.bytes();
        self.pending.push_back(change);
        while self.pending_bytes > CACHE {
            self.settle_oldest();
        }
    }

    fn settle_oldest(&mut self) {
        if let Some(oldest) = self.pending.pop_front() {
            oldest.apply(&mut self.durable);
            self.pending_bytes -= oldest.bytes();
        }
    }

    fn sync(&mut self) {
        while !self.pending.is_empty() {
            self.settle_oldest();
        }
    }

    /// As after a power cut that keeps of what is pending what `keep` says, and of one write only those blocks.
    fn cut(&mut self, mut keep: impl FnMut(usize, &Change, &mut Vec<u8>)) {
        let mut touched = std::mem::take(&mut self.doomed);
        for (n, change) in std::mem::take(&mut self.pending).iter().enumerate() {
            touched.push(change.range());
            keep(n, change, &mut self.durable);
        }
        self.pending_bytes = 0;
        self.now.resize(self.durable.len(), 0);
        for range in touched {
            let end = range.end.min(self.durable.len() as u64) as usize;
            let start = (range.start as usize).min(end);
            self.now[start..end].copy_from_slice(&self.durable[start..end]);
        }
    }
}

#[derive(Debug, Clone)]
enum Naming {
    Create(String, u64),
    Remove(String),
    Rename { from: String, to: String, file: u64 },
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename { from, to, file } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
        }
    }
}

/// What a power cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Changes of files that were dropped.
    pub dropped: u64,
    /// Changes that were not flushed and survived.
    pub kept: u64,
    /// Writes of which a part survived.
    pub torn: u64,
    /// Changes of names that were forgotten.
    pub names: u64,
}

/// The disk.
#[derive(Debug, Default)]
pub struct Disk {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<Naming>,
    files: HashMap<u64, File>,
    last: u64,
    /// Bytes that may still be allocated; `None` for as many as there are.
    pub room: Option<u64>,
}

impl Disk {
    /// The names and files there are now.
    pub fn names(&self) -> impl Iterator<Item = (&str, u64)> {
        self.names.iter().map(|(name, file)| (name.as_str(), *file))
    }

    /// The file of a name.
    pub fn find(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    /// The name of a file; empty when it has none any more.
    pub fn name_of(&self, file: u64) -> &str {
        self.names.iter().find(|(_, f)| **f == file).map_or("", |(name, _)| name)
    }

    /// A file.
    ///
    /// # Errors
    /// ESTALE when there is none.
    pub fn file(&mut self, file: u64) -> Result<&mut File, Errno> {
        self.files.get_mut(&file).ok_or(libc::ESTALE)
    }

    /// Makes a file of so many zeroes.
    ///
    /// # Errors
    /// EEXIST.
    pub fn create(&mut self, name: &str, mode: u32) -> Result<u64, Errno> {
        if self.names.contains_key(name) {
            return Err(libc::EEXIST);
        }
        self.last += 1;
        self.files.insert(self.last, File { mode, ..File::default() });
        self.naming(Naming::Create(name.to_owned(), self.last));
        Ok(self.last)
    }

    fn naming(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending_names.push(naming);
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// ENOENT.
    pub fn remove(&mut self, name: &str) -> Result<(), Errno> {
        self.find(name).ok_or(libc::ENOENT)?;
        self.naming(Naming::Remove(name.to_owned()));
        Ok(())
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// ENOENT, or EEXIST when `keep` is said and the name is taken.
    pub fn rename(&mut self, from: &str, to: &str, keep: bool) -> Result<(), Errno> {
        let file = self.find(from).ok_or(libc::ENOENT)?;
        if keep && self.names.contains_key(to) {
            return Err(libc::EEXIST);
        }
        if from != to {
            self.naming(Naming::Rename { from: from.to_owned(), to: to.to_owned(), file });
        }
        Ok(())
    }

    /// Writes.
    ///
    /// # Errors
    /// ENOSPC when the room is used up; nothing was written then.
    pub fn write(&mut self, file: u64, at: u64, data: &[u8]) -> Result<(), Errno> {
        if data.is_empty() {
            return Ok(());
        }
        let room = self.room;
        let file = self.file(file)?;
        let blocks = at / BLOCK..(at + data.len() as u64).div_ceil(BLOCK);
        let new: Vec<u64> = blocks.filter(|block| !file.allocated.contains(block)).collect();
        let cost = new.len() as u64 * BLOCK;
        if room.is_some_and(|room| room < cost) {
            return Err(libc::ENOSPC);
        }
        file.allocated.extend(new);
        file.push(Change::Write { at, data: data.to_vec() });
        self.room = room.map(|room| room - cost);
        Ok(())
    }

    /// Frees whole blocks, and zeroes the rest.
    ///
    /// # Errors
    /// ESTALE.
    pub fn punch(&mut self, file: u64, range: Range<u64>) -> Result<(), Errno> {
        let file = self.file(file)?;
        let whole = range.start.div_ceil(BLOCK)..range.end / BLOCK;
        let freed = whole.filter(|block| file.allocated.remove(block)).count() as u64;
        let end = range.end.min(file.size());
        if range.start < end {
            file.push(Change::Zero { range: range.start..end });
        }
        self.room = self.room.map(|room| room + freed * BLOCK);
        Ok(())
    }

    /// Changes the size.
    ///
    /// # Errors
    /// ESTALE.
    pub fn resize(&mut self, file: u64, size: u64) -> Result<(), Errno> {
        let file = self.file(file)?;
        let mut freed = 0;
        if size < file.size() {
            let before = file.allocated.len();
            file.allocated.retain(|block| block * BLOCK < size);
            freed = (before - file.allocated.len()) as u64 * BLOCK;
        }
        file.push(Change::Resize(size));
        self.room = self.room.map(|room| room + freed);
        Ok(())
    }

    /// Makes the content of a file durable.
    ///
    /// # Errors
    /// ESTALE.
    pub fn sync(&mut self, file: u64) -> Result<(), Errno> {
        self.file(file)?.sync();
        Ok(())
    }

    /// What a sync that fails leaves: it reads as written, and a power cut loses it for certain.
    ///
    /// # Errors
    /// ESTALE.
    pub fn fail_sync(&mut self, file: u64) -> Result<(), Errno> {
        let file = self.file(file)?;
        file.doomed.extend(file.pending.iter().map(Change::range));
        file.pending.clear();
        file.pending_bytes = 0;
        Ok(())
    }

    /// Makes the names durable.
    pub fn sync_names(&mut self) {
        self.pending_names.clear();
        self.durable_names.clone_from(&self.names);
        self.forget_files();
    }

    /// Makes everything durable.
    pub fn sync_all(&mut self) {
        self.files.values_mut().for_each(File::sync);
        self.sync_names();
    }

    /// Changes that a cut may undo, of files and of names.
    pub fn pending(&self) -> (usize, usize) {
        (self.files.values().map(File::pending).sum(), self.pending_names.len())
    }

    /// Bytes allocated in all files.
    pub fn allocated(&self) -> u64 {
        self.files.values().map(File::allocated).sum()
    }

    /// Cuts the power: any subset of what is pending is dropped, one write is torn at 512 or 4096 bytes, names that were
    /// not synced are forgotten or not. What is there then is durable.
    pub fn cut(&mut self, random: &mut Random) -> Cut {
        let mut cut = Cut::default();
        // Now and then nothing survives, now and then almost all.
        let chances = [0, 1, 4, 7, 8][random.below(5) as usize];
        let tear = |c: &Change| matches!(c, Change::Write { data, .. } if data.len() > 512);
        let mut files: Vec<u64> = self.files.keys().copied().collect();
        files.sort_unstable();
        let mut candidates = Vec::new();
        for id in &files {
            let pending = self.files[id].pending.iter().enumerate();
            candidates.extend(pending.filter(|(_, change)| tear(change)).map(|(n, _)| (*id, n)));
        }
        let torn = candidates.get(random.below(candidates.len() as u64) as usize).copied();
        for id in files {
            let Some(file) = self.files.get_mut(&id) else { continue };
            file.cut(|n, change, durable| {
                if let (true, Change::Write { at, data }) = (torn == Some((id, n)), change) {
                    tear_write(random, *at, data, durable);
                    cut.torn += 1;
                } else if random.below(8) < chances {
                    change.apply(durable);
                    cut.kept += 1;
                } else {
                    cut.dropped += 1;
                }
            });
        }
        for naming in std::mem::take(&mut self.pending_names) {
            if random.below(8) < chances {
                naming.apply(&mut self.durable_names);
            } else {
                cut.names += 1;
            }
        }
        self.names.clone_from(&self.durable_names);
        // Nobody has anything open any more.
        self.files.values_mut().for_each(|file| file.open = 0);
        self.forget_files();
        cut
    }

    /// Forgets files without name that nobody has open.
    pub fn forget_files(&mut self) {
        let named: HashSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        // A name that is pending can come back.
        let pending = |id: &u64| {
            self.pending_names.iter().any(|n| match n {
                Naming::Create(_, file) | Naming::Rename { file, .. } => file == id,
                Naming::Remove(_) => false,
            })
        };
        let gone: Vec<u64> = self
            .files
            .iter()
            .filter(|(id, file)| file.open == 0 && !named.contains(id) && !pending(id))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(file) = self.files.remove(&id) {
                self.room = self.room.map(|room| room + file.allocated());
            }
        }
    }
}

/// Applies a part of a write, in blocks of the file of 512 or 4096 bytes: the first so many, or any.
fn tear_write(random: &mut Random, at: u64, data: &[u8], durable: &mut Vec<u8>) {
    let unit = [512, 4096][random.below(2) as usize];
    let end = at + data.len() as u64;
    let mut pieces = Vec::new();
    let mut from = at;
    while from < end {
        let to = ((from / unit + 1) * unit).min(end);
        pieces.push(from..to);
        from = to;
    }
    let some = random.below(pieces.len() as u64 + 1) as usize;
    let any = random.below(2) == 0;
    for (n, piece) in pieces.iter().enumerate() {
        if if any { random.below(2) == 0 } else { n < some } {
            put(durable, piece.start, &data[(piece.start - at) as usize..(piece.end - at) as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (Disk, u64) {
        let mut disk = Disk::default();
        let file = disk.create("a", 0o600).unwrap();
        disk.resize(file, 64 << 10).unwrap();
        disk.sync_all();
        (disk, file)
    }

    #[test]
    fn a_cut_drops_any_part_of_what_is_pending_and_nothing_else() {
        let (mut dropped, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..400 {
            let (mut disk, file) = disk();
            disk.write(file, 0, &[1; 4096]).unwrap();
            disk.sync(file).unwrap();
            disk.write(file, 0, &[2; 8192]).unwrap();
            disk.write(file, 32768, &[4; 512]).unwrap();
            let cut = disk.cut(&mut Random(seed));
            assert_eq!(cut.dropped + cut.kept + cut.torn, 2, "{cut:?}");
            let content = disk.file(file).unwrap().read(0, 1 << 20).to_vec();
            assert_eq!(content.len(), 64 << 10);
            for (n, sector) in content.chunks(512).enumerate() {
                let allowed: &[u8] = match n {
                    0..8 => &[1, 2],
                    8..16 => &[0, 2],
                    64 => &[0, 4],
                    _ => &[0],
                };
                assert!(sector.iter().all(|b| *b == sector[0]) && allowed.contains(&sector[0]), "{n}");
            }
            assert_eq!(disk.pending(), (0, 0));
            (dropped, kept, torn) = (dropped + cut.dropped, kept + cut.kept, torn + cut.torn);
        }
        assert!(dropped > 50 && kept > 50 && torn > 50, "{dropped} {kept} {torn}");
    }

    #[test]
    fn names_are_there_after_their_sync_and_a_rename_is_one_step() {
        let (mut before, mut after) = (0, 0);
        for seed in 0..100 {
            let (mut disk, old) = disk();
            let new = disk.create("a.new", 0o600).unwrap();
            disk.write(new, 0, b"x").unwrap();
            disk.sync(new).unwrap();
            disk.rename("a.new", "a", false).unwrap();
            assert_eq!((disk.find("a"), disk.find("a.new")), (Some(new), None));
            if seed % 2 == 0 {
                disk.sync_names();
            }
            disk.cut(&mut Random(seed));
            let found = disk.find("a").unwrap();
            assert!(found == new || found == old && seed % 2 == 1);
            assert_eq!(disk.file(found).unwrap().size(), if found == new { 1 } else { 64 << 10 });
            if found == old { before += 1 } else { after += 1 }
        }
        assert!(before > 10 && after > 60);
    }

    #[test]
    fn a_sync_that_fails_is_lost_for_certain() {
        for seed in 0..20 {
            let (mut disk, file) = disk();
            disk.write(file, 512, &[1; 512]).unwrap();
            disk.fail_sync(file).unwrap();
            disk.sync(file).unwrap();
            assert_eq!(disk.file(file).unwrap().read(512, 1), [1]);
            disk.cut(&mut Random(seed));
            assert_eq!(disk.file(file).unwrap().read(512, 1), [0]);
        }
    }

    #[test]
    fn only_new_blocks_take_room() {
        let (mut disk, file) = disk();
        disk.room = Some(8192);
        disk.write(file, 0, &[1; 512]).unwrap();
        disk.write(file, 512, &[1; 512]).unwrap();
        assert_eq!(disk.room, Some(4096));
        assert_eq!(disk.write(file, 8192, &[1; 8192]), Err(libc::ENOSPC));
        disk.punch(file, 0..4096).unwrap();
        assert_eq!(disk.room, Some(8192));
        assert_eq!(disk.file(file).unwrap().read(0, 1), [0]);
        disk.write(file, 8192, &[1; 8192]).unwrap();
        disk.resize(file, 8192).unwrap();
        assert_eq!(disk.room, Some(8192));
    }
}
