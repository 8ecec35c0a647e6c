//! Which instruction sets there are, which this CPU has, and the handle that carries the choice.

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
