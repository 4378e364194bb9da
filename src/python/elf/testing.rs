//! ELF files of little more than headers, what they need and what they define.

const HEADER: usize = 64;
/// Where the loader would put the first byte.
const ADDRESS: u64 = 4096;

/// A library for `machine` that needs these versions of libc; a name with `?` is a weak need.
pub(crate) fn elf(machine: u16, needs: &[&str]) -> Vec<u8> {
    let made = Made {
        machine,
        asks: &[("libc.so.6", needs)],
        ..Made::default()
    };
    made.bytes()
}

/// A file under way; what is empty is left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made<'a> {
    pub(crate) machine: u16,
    pub(crate) soname: &'a str,
    pub(crate) needed: &'a [&'a str],
    /// Of each library its versions; a name with `?` is a weak need.
    pub(crate) asks: &'a [(&'a str, &'a [&'a str])],
    pub(crate) defines: &'a [&'a str],
    pub(crate) rpath: &'a str,
    pub(crate) runpath: &'a str,
    pub(crate) interpreter: &'a str,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Self {
            machine: 62,
            soname: "",
            needed: &[],
            asks: &[],
            defines: &[],
            rpath: "",
            runpath: "",
            interpreter: "",
        }
    }
}

/// The table of names.
struct Names(Vec<u8>);

impl Names {
    fn put(&mut self, name: &str) -> u32 {
        let place = u32::try_from(self.0.len()).unwrap();
        self.0.extend(name.as_bytes());
        self.0.push(0);
        place
    }
}

fn half(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap().to_le_bytes()
}

/// Whether something follows: the distance to it, else 0.
fn next(distance: u32, index: usize, count: usize) -> [u8; 4] {
    (if index + 1 < count { distance } else { 0 }).to_le_bytes()
}

impl Made<'_> {
    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut names = Names(vec![0]);
        let needs = self.needs(&mut names);
        let definitions = self.definitions(&mut names);
        let mut entries: Vec<(u64, u64)> = Vec::new();
        for name in self.needed {
            entries.push((1, names.put(name).into()));
        }
        for (tag, text) in [(14, self.soname), (15, self.rpath), (29, self.runpath)] {
            if !text.is_empty() {
                entries.push((tag, names.put(text).into()));
            }
        }
        let (mut segments, mut interpreter) = (2, 0);
        if !self.interpreter.is_empty() {
            (segments, interpreter) = (3, names.put(self.interpreter) as usize);
        }
        // Beside these: the names, their length, both kinds of versions, the end.
        let tables = 3 + usize::from(!needs.is_empty()) + usize::from(!definitions.is_empty());
        let dynamic = HEADER + segments * 56;
        let size = (entries.len() + tables) * 16;
        let at_needs = dynamic + size;
        let at_definitions = at_needs + needs.len();
        let at_names = at_definitions + definitions.len();
        let length = at_names + names.0.len();
        let address = |place: usize| place as u64 + ADDRESS;
        entries.extend([(5, address(at_names)), (10, names.0.len() as u64)]);
        if !needs.is_empty() {
            entries.push((0x6fff_fffe, address(at_needs)));
        }
        if !definitions.is_empty() {
            entries.push((0x6fff_fffc, address(at_definitions)));
        }
        entries.push((0, 0));
        assert_eq!(entries.len() * 16, size);

        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([3u16, self.machine].map(u16::to_le_bytes).concat());
        file.extend(1u32.to_le_bytes());
        file.extend([0, HEADER as u64, 0].map(u64::to_le_bytes).concat());
        file.extend([0; 4]);
        file.extend([64, 56, segments, 0, 0, 0].map(half).concat());
        let interpreter = at_names + interpreter;
        let all = [
            (1u32, 0, length),
            (2, dynamic, size),
            (3, interpreter, self.interpreter.len() + 1),
        ];
        for (kind, offset, size) in &all[..segments] {
            file.extend([*kind, 4].map(u32::to_le_bytes).concat());
            let (address, size) = (address(*offset), *size as u64);
            let fields = [*offset as u64, address, address, size, size, 8];
            file.extend(fields.map(u64::to_le_bytes).concat());
        }
        for (tag, value) in entries {
            file.extend([tag, value].map(u64::to_le_bytes).concat());
        }
        file.extend(needs);
        file.extend(definitions);
        file.extend(names.0);
        file
    }

    fn needs(&self, names: &mut Names) -> Vec<u8> {
        let mut table = Vec::new();
        for (number, (library, versions)) in self.asks.iter().enumerate() {
            table.extend([half(1), half(versions.len())].concat());
            table.extend(names.put(library).to_le_bytes());
            table.extend(16u32.to_le_bytes());
            let size = 16 + u32::try_from(versions.len()).unwrap() * 16;
            table.extend(next(size, number, self.asks.len()));
            for (number, version) in versions.iter().enumerate() {
                table.extend([0; 4]);
                table.extend(half(if version.ends_with('?') { 2 } else { 0 }));
                table.extend([0; 2]);
                table.extend(names.put(version.trim_end_matches('?')).to_le_bytes());
                table.extend(next(16, number, versions.len()));
            }
        }
        table
    }

    /// The first defines the file's own name, as linkers have it.
    fn definitions(&self, names: &mut Names) -> Vec<u8> {
        let mut table = Vec::new();
        if self.defines.is_empty() {
            return table;
        }
        let all = [&[self.soname], self.defines].concat();
        for (number, version) in all.iter().enumerate() {
            table.extend(
                [1, usize::from(number == 0), number + 1, 1]
                    .map(half)
                    .concat(),
            );
            table.extend([0; 4]);
            table.extend(20u32.to_le_bytes());
            table.extend(next(28, number, all.len()));
            table.extend(names.put(version).to_le_bytes());
            table.extend([0; 4]);
        }
        table
    }
}
