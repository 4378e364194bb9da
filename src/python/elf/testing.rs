//! ELF files of little more than headers and needed versions.

const HEADER: u64 = 64;
const SEGMENTS: u64 = 2 * 56;
const DYNAMIC: u64 = HEADER + SEGMENTS;
const NEEDS: u64 = DYNAMIC + 4 * 16;

/// A library for `machine` that needs these versions of libc; a name with `?` is a weak need.
pub(crate) fn elf(machine: u16, needs: &[&str]) -> Vec<u8> {
    let mut strings = b"\0libc.so.6\0".to_vec();
    let mut versions = Vec::new();
    let count = u16::try_from(needs.len()).unwrap();
    versions.extend([1u16.to_le_bytes(), count.to_le_bytes()].concat());
    versions.extend([1u32.to_le_bytes(), 16u32.to_le_bytes(), [0; 4]].concat());
    for need in needs {
        let place = u32::try_from(strings.len()).unwrap();
        strings.extend(need.trim_end_matches('?').as_bytes());
        strings.push(0);
        versions.extend([0; 4]);
        versions.extend((if need.ends_with('?') { 2u16 } else { 0 }).to_le_bytes());
        versions.extend([0; 2]);
        versions.extend(place.to_le_bytes());
        versions.extend(16u32.to_le_bytes());
    }
    let names = NEEDS + versions.len() as u64;
    let length = names + strings.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([3u16.to_le_bytes(), machine.to_le_bytes()].concat());
    file.extend(1u32.to_le_bytes());
    file.extend([0, HEADER, 0].map(u64::to_le_bytes).concat());
    file.extend([0; 4]);
    file.extend([64u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    // Loaded at its place in the file plus a page.
    for (kind, offset, size) in [(1u32, 0, length), (2, DYNAMIC, 4 * 16)] {
        file.extend([kind, 4].map(u32::to_le_bytes).concat());
        let address = offset + 4096;
        let fields = [offset, address, address, size, size, 8];
        file.extend(fields.map(u64::to_le_bytes).concat());
    }
    let entries = [
        (5, names + 4096),
        (10, strings.len() as u64),
        (0x6fff_fffe, NEEDS + 4096),
        (0, 0),
    ];
    for (tag, value) in entries {
        file.extend([tag, value].map(u64::to_le_bytes).concat());
    }
    file.extend(versions);
    file.extend(strings);
    file
}
