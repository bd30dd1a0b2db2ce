//! Samples of every type that is read from bytes, made by its own `Deserialize`: each number and text is another one,
//! each option is given, each list has two entries, and each variant of each enum comes up in some sample. Beside the
//! bytes stand the names of the fields and variants, in their order, because two fields that change places have the
//! same bytes. So each addition, move or change shows without a sample to be written for it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use serde::Serialize;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use std::collections::BTreeSet;
use std::fmt;

/// No sample is nested as deep, unless a type contains itself.
const DEEPEST: usize = 30;

/// Types of list entries that refer to one another: a sampled entry refers to no other, so the options of these types
/// are not given.
const REFERRING: [&str; 1] = ["Kept"];

/// Samples of a type, as few as show each variant of each enum in it once, for each variant of the type itself and of
/// the enums around it. Adds the names of all types in it, with the names of their fields or variants, to `types`.
pub fn samples<T: DeserializeOwned + Serialize>(types: &mut BTreeSet<String>) -> Vec<T> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let (mut outer, mut outer_count) = (0, 1);
    while outer < outer_count {
        let (mut inner, mut inner_count) = (0, 1);
        while inner < inner_count {
            let (sample, widest) = sample::<T>(outer, inner, types);
            outer_count = outer_count.max(widest.outer);
            inner_count = inner_count.max(widest.inner);
            if let Some(sample) = sample
                && seen.insert(pgmesh_storage::wire::encode(&sample))
            {
                found.push(sample);
            }
            inner += 1;
        }
        outer += 1;
    }
    found
}

/// The most variants of the outer enum, which is the type itself, and of the enums in it.
#[derive(Default, Clone, Copy)]
struct Widest {
    outer: usize,
    inner: usize,
}

/// One sample, unless the chosen variants lead to a type without values. Where a type refuses a value, the last value
/// before the refusal is replaced by its next candidate.
fn sample<T: DeserializeOwned>(outer: usize, inner: usize, types: &mut BTreeSet<String>) -> (Option<T>, Widest) {
    let mut choices = Vec::new();
    for _ in 0..100_000 {
        let mut sampler = Sampler {
            outer,
            inner,
            choices: std::mem::take(&mut choices),
            made: 0,
            number: 0,
            depth: 0,
            around: 1,
            widest: Widest::default(),
            refers: false,
            is_impossible: false,
            types: std::mem::take(types),
        };
        let made = T::deserialize(&mut sampler);
        *types = std::mem::take(&mut sampler.types);
        match made {
            Ok(sample) => return (Some(sample), sampler.widest),
            Err(_) if sampler.is_impossible => return (None, sampler.widest),
            Err(_) => {
                choices = sampler.choices;
                choices.truncate(sampler.made);
                while choices.last().is_some_and(|(choice, count)| choice + 1 >= *count) {
                    choices.pop();
                }
                let last = choices
                    .last_mut()
                    .unwrap_or_else(|| panic!("no sample of {}", std::any::type_name::<T>()));
                last.0 += 1;
            }
        }
    }
    panic!("no sample of {} after many attempts", std::any::type_name::<T>());
}

#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct Sampler {
    outer: usize,
    inner: usize,
    /// Which candidate each value is, and how many it has.
    choices: Vec<(usize, usize)>,
    made: usize,
    number: u64,
    depth: usize,
    /// In how many ways the enums around the present place can be chosen.
    around: usize,
    widest: Widest,
    refers: bool,
    /// The sampler met a type without any value (`Infallible`), or a type that contains itself without an end.
    is_impossible: bool,
    types: BTreeSet<String>,
}

impl Sampler {
    fn count(&mut self) -> u64 {
        self.number = self.number % 100 + 1;
        self.number
    }

    fn choose(&mut self, count: usize) -> usize {
        if self.made == self.choices.len() {
            self.choices.push((0, count));
        }
        self.made += 1;
        self.choices[self.made - 1].0
    }

    fn integer(&mut self) -> u64 {
        let next = self.count();
        [next, 14 + next % 5, 1 << 20, 16 << 20, next % 2][self.choose(5)]
    }

    fn text(&mut self) -> String {
        let next = self.count();
        let candidates = [
            format!("text-{next}"),
            format!("20260101-00{:02}{:02}F", next / 60, next % 60),
            format!("0000000100000000000000{next:02X}"),
            format!("15-{next}"),
            "16".to_owned(),
            format!("{next}"),
            format!("{next:064x}"),
        ];
        let choice = self.choose(candidates.len());
        candidates[choice].clone()
    }

    fn variant(&mut self, count: usize) -> usize {
        if self.depth == 1 && self.made == 0 && self.widest.outer == 0 {
            self.widest.outer = count;
            return self.outer % count;
        }
        self.widest.inner = self.widest.inner.max(self.around * count);
        self.inner / self.around % count
    }
}

macro_rules! integers {
    ($($name:ident $visit:ident $type:ty,)*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            let value = self.integer();
            visitor.$visit(<$type>::try_from(value).map_err(|error| Refused(error.to_string()))?)
        })*
    };
}

impl<'de> de::Deserializer<'de> for &mut Sampler {
    type Error = Refused;

    integers! {
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        Err(Refused("bytes do not say what they are".to_owned()))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_any(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_any(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_bool(self.count() % 2 == 1)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_any(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_any(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_char('x')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_string(self.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_string(self.text())
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let byte = u8::try_from(self.count()).unwrap();
        let length = [3, 8, 12, 16, 32][self.choose(5)];
        visitor.visit_byte_buf(vec![byte; length])
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match self.refers || self.depth > DEEPEST / 2 {
            true => visitor.visit_none(),
            false => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_tuple(2, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Refused> {
        self.depth += 1;
        let value = visitor.visit_seq(Entries {
            sampler: &mut *self,
            left: length,
        });
        self.depth -= 1;
        value
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.depth += 1;
        let value = visitor.visit_map(Entries {
            sampler: &mut *self,
            left: 2,
        });
        self.depth -= 1;
        value
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.types.insert(format!("{name} {{ {} }}", fields.join(", ")));
        let outside = std::mem::replace(&mut self.refers, REFERRING.contains(&name));
        let value = de::Deserializer::deserialize_tuple(&mut *self, fields.len(), visitor);
        self.refers = outside;
        value
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.types.insert(format!("{name} = {}", variants.join(" | ")));
        if variants.is_empty() || self.depth > DEEPEST {
            self.is_impossible = true;
            return Err(Refused(format!("{name} has no value")));
        }
        self.depth += 1;
        let around = self.around;
        let is_outer = self.depth == 1 && self.made == 0 && self.widest.outer == 0;
        let variant = self.variant(variants.len());
        if !is_outer {
            self.around *= variants.len();
        }
        let value = visitor.visit_enum(Chosen {
            name: format!("{name}::{}", variants[variant]),
            sampler: &mut *self,
            variant,
        });
        self.depth -= 1;
        self.around = around;
        value
    }
}

struct Entries<'s> {
    sampler: &'s mut Sampler,
    left: usize,
}

impl<'de> SeqAccess<'de> for Entries<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.sampler).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        seed.deserialize(&mut *self.sampler)
    }
}

struct Chosen<'s> {
    name: String,
    sampler: &'s mut Sampler,
    variant: usize,
}

impl<'de> EnumAccess<'de> for Chosen<'_> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Refused> {
        let index: de::value::U32Deserializer<Refused> = u32::try_from(self.variant).unwrap().into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for Chosen<'_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        seed.deserialize(self.sampler)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Refused> {
        de::Deserializer::deserialize_tuple(self.sampler, length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Refused> {
        self.sampler
            .types
            .insert(format!("{} {{ {} }}", self.name, fields.join(", ")));
        de::Deserializer::deserialize_tuple(self.sampler, fields.len(), visitor)
    }
}

/// Compares lines of golden bytes with the lines of a file, which `PGMESH_GOLDEN=write` writes anew.
pub fn compare(path: &str, lines: &[String], what_to_do: &str) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    if std::env::var("PGMESH_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    let (golden, now): (BTreeSet<&str>, BTreeSet<&str>) = (golden.lines().collect(), text.lines().collect());
    let name = |line: &&str| line.rsplit_once('\t').map_or(*line, |(name, _)| name).to_owned();
    let changed: BTreeSet<String> = golden.symmetric_difference(&now).map(name).collect();
    assert!(
        changed.is_empty(),
        "the bytes of these have changed:\n{}\n{what_to_do}\nThen PGMESH_GOLDEN=write writes {path} anew.",
        changed.into_iter().collect::<Vec<_>>().join("\n")
    );
}
