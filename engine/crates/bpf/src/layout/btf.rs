//! The structs and enums in an object's type information (section `.BTF`; kernel: `Documentation/bpf/btf.rst`).

use std::collections::BTreeMap;

/// A field: its offset and size in bytes.
pub(super) type Field = (String, usize, usize);

/// The named types of an object.
#[derive(Debug, Default)]
pub(super) struct Types {
    /// Size and fields, by name.
    pub(super) structs: BTreeMap<String, (usize, Vec<Field>)>,
    /// Enumerators and their values, by name.
    pub(super) enums: BTreeMap<String, Vec<(String, u32)>>,
}

/// Read the types of an ELF object.
pub(super) fn types(elf: &[u8]) -> Types {
    let raw = Raw::parse(section(elf, ".BTF"));
    let mut found = Types::default();
    for one in &raw.types {
        let name = raw.string(one.name);
        match one.kind {
            STRUCT if !name.is_empty() => {
                let fields = one.words.chunks(3).map(|member| {
                    let bits = if one.flag { member[2] & 0x00ff_ffff } else { member[2] };
                    (raw.string(member[0]), bits as usize / 8, raw.size(member[1]))
                });
                found.structs.insert(name, (one.size as usize, fields.collect()));
            }
            ENUM if !name.is_empty() => {
                let values = one.words.chunks(2).map(|value| (raw.string(value[0]), value[1]));
                found.enums.insert(name, values.collect());
            }
            _ => {}
        }
    }
    found
}

const INT: u32 = 1;
const POINTER: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;

struct Type {
    name: u32,
    kind: u32,
    flag: bool,
    /// Its size, or the type that it refers to.
    size: u32,
    words: Vec<u32>,
}

struct Raw<'a> {
    /// In order; the first has number 1.
    types: Vec<Type>,
    strings: &'a [u8],
}

impl<'a> Raw<'a> {
    fn parse(data: &'a [u8]) -> Self {
        assert_eq!(&data[..2], &0xeb9f_u16.to_le_bytes(), "type information of a little-endian object");
        let header = word(data, 4) as usize;
        let at = |field: usize| header + word(data, field) as usize;
        let strings = &data[at(16)..][..word(data, 20) as usize];
        let mut left = &data[at(8)..][..word(data, 12) as usize];
        let mut types = Vec::new();
        while !left.is_empty() {
            let info = word(left, 4);
            let (kind, count) = (info >> 24 & 0x1f, info as usize & 0xffff);
            let extra = match kind {
                INT | 14 | 17 => 1, // variable, declaration tag
                ARRAY => 3,
                STRUCT | UNION | 15 | 19 => 3 * count, // data section, 64-bit enum
                ENUM | 13 => 2 * count,                // prototype of a function
                _ => 0,
            };
            let words = (0..extra).map(|number| word(left, 12 + 4 * number)).collect();
            types.push(Type { name: word(left, 0), kind, flag: info >> 31 == 1, size: word(left, 8), words });
            left = &left[12 + 4 * extra..];
        }
        Self { types, strings }
    }

    fn string(&self, offset: u32) -> String {
        let bytes = self.strings[offset as usize..].iter().take_while(|byte| **byte != 0).copied().collect();
        String::from_utf8(bytes).expect("names in C are ASCII")
    }

    /// Bytes that a value of a type takes.
    fn size(&self, number: u32) -> usize {
        let one = &self.types[number as usize - 1];
        match one.kind {
            INT | STRUCT | UNION | ENUM | 16 | 19 => one.size as usize, // float, 64-bit enum
            POINTER => 8,
            ARRAY => self.size(one.words[0]) * one.words[2] as usize,
            _ => self.size(one.size), // a name or a qualifier of another type
        }
    }
}

/// A section of an ELF64 file, little-endian.
fn section<'a>(elf: &'a [u8], wanted: &str) -> &'a [u8] {
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01");
    let table = long(elf, 0x28);
    let (size, count, names) = (half(elf, 0x3a), half(elf, 0x3c), half(elf, 0x3e));
    let header = |number: usize| &elf[table + number * size..][..size];
    let content = |header: &[u8]| &elf[long(header, 0x18)..][..long(header, 0x20)];
    let names = content(header(names));
    let found = (0..count).map(header).find(|header| {
        let name = &names[word(header, 0) as usize..];
        name.starts_with(wanted.as_bytes()) && name[wanted.len()] == 0
    });
    content(found.unwrap_or_else(|| panic!("no section {wanted}")))
}

fn half(data: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([data[at], data[at + 1]]))
}

fn word(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes"))
}

fn long(data: &[u8], at: usize) -> usize {
    let value = u64::from_le_bytes(data[at..at + 8].try_into().expect("eight bytes"));
    usize::try_from(value).expect("a file that fits into memory")
}
