//! Which instruction sets there are, which this CPU has, and the handle that carries the choice.

use crate::error::KernelError;
use crate::table::{KernelTable, PORTABLE, TABLES};

/// An instruction set level that a kernel table is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust over `wide`: whatever the target's baseline has.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// [`Isa::Avx2`] with AVX-VNNI (the VEX-coded int8 dot product).
    Avx2Vnni,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Isa::Avx512`] with VNNI.
    Avx512Vnni,
    /// [`Isa::Avx512Vnni`] with BF16 and VBMI.
    Avx512Bf16,
    /// Arm NEON with the int8 dot product.
    Neon,
}

impl Isa {
    /// Every level, lowest first within an architecture.
    pub const ALL: [Isa; 7] =
        [Isa::Portable, Isa::Avx2, Isa::Avx2Vnni, Isa::Avx512, Isa::Avx512Vnni, Isa::Avx512Bf16, Isa::Neon];

    /// The name `GABLE_ISA` understands.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Neon => "neon",
        }
    }

    /// All names, for messages.
    pub fn names() -> String {
        Isa::ALL.map(Isa::name).join(", ")
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Isa::ALL
            .into_iter()
            .find(|i| i.name() == name)
            .ok_or_else(|| KernelError::UnknownIsa(name.to_owned()))
    }
}

/// The kernels of one instruction set that this CPU has: a small handle, copied freely.
#[derive(Clone, Copy)]
pub struct Kernels {
    pub(crate) table: &'static KernelTable,
}

impl Kernels {
    /// The best instruction set of this CPU, or the one that the environment variable `GABLE_ISA` names.
    ///
    /// # Errors
    /// [`KernelError::UnknownIsa`] or [`KernelError::IsaUnavailable`] if `GABLE_ISA` asks for what is not there.
    pub fn new() -> Result<Self, KernelError> {
        match std::env::var("GABLE_ISA") {
            Ok(name) if !name.is_empty() => Self::for_isa(name.parse()?),
            _ => Ok(Self::best()),
        }
    }

    /// The best instruction set of this CPU; the environment is not asked.
    pub fn best() -> Self {
        // The portable table needs nothing, so there is always one.
        let table = TABLES.iter().copied().find(|t| (t.cpu_has)()).unwrap_or(&PORTABLE);
        Kernels { table }
    }

    /// One given instruction set.
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] if this CPU or this build does not have it.
    pub fn for_isa(isa: Isa) -> Result<Self, KernelError> {
        Self::every_available().find(|k| k.isa() == isa).ok_or_else(|| KernelError::IsaUnavailable {
            isa,
            available: Self::every_available().map(|k| k.isa().name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Every instruction set that this CPU has, best first: what tests loop over.
    pub fn every_available() -> impl Iterator<Item = Self> {
        TABLES.iter().copied().filter(|t| (t.cpu_has)()).map(|table| Kernels { table })
    }

    /// Names of the kernels that every instruction set has, as test reports print them.
    pub fn operations() -> &'static [&'static str] {
        KernelTable::OPERATIONS
    }

    /// Shapes of the register tiles that prompts are multiplied with.
    pub fn tiles(self) -> crate::table::Tiles {
        self.table.tiles
    }

    /// Which instruction set this is.
    pub fn isa(self) -> Isa {
        self.table.isa
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.isa())
    }
}
