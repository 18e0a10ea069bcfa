//! The kernels and their pipelines. Each operation is one WGSL file; its header says what it computes. Those that read
//! weights are put together with the parts that say how each side of a product lies in memory.

use super::buffers::Binding;
use crate::model::Form;
use serde::{Deserialize, Serialize};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A number for the kernels of products as they are: what was measured of others may not hold for these.
pub fn version() -> u64 {
    let mut hasher = DefaultHasher::new();
    for variant in Variant::ALL {
        let (right, left_transposed) = (Numbers::Vec4, variant == Variant::Rows);
        let columns = variant.columns_of(0, right, true);
        Product { variant, left_vec4: !left_transposed, left_transposed, right, right_transposed: true, columns }
            .source()
            .hash(&mut hasher);
    }
    hasher.finish()
}

/// How the right side of a product is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// f32, rows beginning anywhere.
    Scalar,
    /// f32, rows beginning at multiples of 4.
    Vec4,
    /// A packed form of a checkpoint.
    Packed(Form),
}

impl Numbers {
    fn part(self) -> &'static str {
        match self {
            Self::Scalar => include_str!("kernels/parts/right_f32_scalar.wgsl"),
            Self::Vec4 | Self::Packed(Form::F32) => include_str!("kernels/parts/right_f32_vec4.wgsl"),
            Self::Packed(Form::F16) => include_str!("kernels/parts/right_f16.wgsl"),
            Self::Packed(Form::Bf16) => include_str!("kernels/parts/right_bf16.wgsl"),
            Self::Packed(Form::Q8) => include_str!("kernels/parts/right_q8.wgsl"),
            Self::Packed(Form::Q8Offset) => include_str!("kernels/parts/right_q8_offset.wgsl"),
            Self::Packed(Form::Q4) => include_str!("kernels/parts/right_q4.wgsl"),
            Self::Packed(Form::Q4K) => include_str!("kernels/parts/right_q4k.wgsl"),
        }
    }
}

/// The ways to compute a product. Which is fastest depends on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Variant {
    /// Registers only.
    Direct,
    /// The same, rows of the result across threads: what software adapters are fast at.
    Rows,
    /// Tiles in shared memory, made by this many threads a side.
    Tiled(u32),
    /// Tiles in shared memory, of which a thread makes more.
    Blocks,
    /// Values handed from lane to lane of a subgroup, where the device offers that.
    Subgroups,
}

impl Variant {
    pub const ALL: [Self; 6] =
        [Self::Direct, Self::Rows, Self::Tiled(8), Self::Tiled(16), Self::Blocks, Self::Subgroups];

    /// Rows that one workgroup makes.
    pub fn rows(self) -> usize {
        match self {
            Self::Direct | Self::Rows | Self::Blocks => 64,
            Self::Tiled(side) => 4 * side as usize,
            Self::Subgroups => SUBGROUP_ROWS,
        }
    }

    /// Columns that one workgroup may make.
    fn columns(self, right: Numbers, right_transposed: bool) -> &'static [usize] {
        match self {
            Self::Direct | Self::Tiled(8) => &[32],
            Self::Tiled(_) | Self::Blocks => &[64],
            Self::Subgroups => &[256],
            // The more, the fewer loads, but only while the loop stays in a processor's instruction cache: measured for each.
            Self::Rows => match (right, right_transposed) {
                (Numbers::Packed(Form::Bf16), true) => &[28, 26],
                (Numbers::Packed(Form::Bf16), false) => &[24],
                _ => &[16],
            },
        }
    }

    /// Columns that one workgroup makes of `n`: those that reach least beyond them.
    pub fn columns_of(self, n: usize, right: Numbers, right_transposed: bool) -> usize {
        let beyond = |columns: &usize| n.next_multiple_of(*columns);
        self.columns(right, right_transposed).iter().copied().min_by_key(beyond).unwrap_or(1)
    }
}

/// Rows that a workgroup of `matmul_subgroups` makes.
const SUBGROUP_ROWS: usize = 16;

/// Columns that a thread of `transpose` takes.
pub const TRANSPOSED_COLUMNS: usize = 16;

/// A source in which each run of lines with a `$` stands once for every two of `columns`: `$0` and `$1` become their
/// numbers.
fn repeated(source: &str, columns: usize) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let mut out = format!("const COLUMNS: u32 = {columns}u;\n");
    for run in lines.chunk_by(|a, b| a.contains('$') == b.contains('$')) {
        let times = if run[0].contains('$') { columns / 2 } else { 1 };
        for pair in 0..times {
            for line in run {
                out += &line.replace("$0", &(2 * pair).to_string()).replace("$1", &(2 * pair + 1).to_string());
                out.push('\n');
            }
        }
    }
    out
}

/// A source in which `#` is the number of a row of a thread's: `each(x)` stands for a vector of x for every row, any other
/// line with a `#` once for each of them.
fn by_rows(source: &str, rows: usize) -> String {
    let mut out = String::new();
    for line in source.lines() {
        let numbered = |text: &str| (0..rows).map(|row| text.replace('#', &row.to_string())).collect::<Vec<_>>();
        match line.split_once("each(") {
            Some((before, rest)) => {
                let mut open = 1;
                let end = rest.find(|c| {
                    open += i32::from(c == '(') - i32::from(c == ')');
                    open == 0
                });
                let (inner, after) = rest.split_at(end.unwrap_or(rest.len()));
                out += &format!("{before}Rows({}{after}\n", numbered(inner).join(", "));
            }
            None if line.contains('#') => out += &(numbered(line).join("\n") + "\n"),
            None => out += &format!("{line}\n"),
        }
    }
    out
}

/// How many threads take a row of a row-wise kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowWise {
    /// One; the norm leaves a transposed copy too, for [`Variant::Rows`]. In attention it takes four of them.
    Alone,
    /// A workgroup.
    Shared,
}

impl RowWise {
    /// Threads of a row.
    pub fn lanes(self) -> usize {
        match self {
            Self::Alone => 1,
            Self::Shared => 64,
        }
    }

    /// Rows that a thread of an attention kernel has.
    pub fn attention_rows(self) -> usize {
        match self {
            Self::Alone => 4,
            Self::Shared => 1,
        }
    }

    fn part(self) -> &'static str {
        match self {
            Self::Alone => include_str!("kernels/parts/row_alone.wgsl"),
            Self::Shared => include_str!("kernels/parts/row_shared.wgsl"),
        }
    }
}

/// The attention and its way back to each of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attend {
    Forward,
    BackwardQueries,
    BackwardKeys,
    BackwardValues,
}

impl Attend {
    #[cfg(test)]
    const ALL: [Self; 4] = [Self::Forward, Self::BackwardQueries, Self::BackwardKeys, Self::BackwardValues];

    /// Products of a row with a row, or rows added in some share, for each query and key.
    pub fn products(self) -> u64 {
        match self {
            Self::Forward | Self::BackwardValues => 2,
            Self::BackwardQueries | Self::BackwardKeys => 3,
        }
    }

    /// The source for heads of `head_dim` columns.
    fn source(self, threads: RowWise, head_dim: usize) -> String {
        let rows = match threads {
            RowWise::Alone => include_str!("kernels/parts/rows_four.wgsl"),
            RowWise::Shared => include_str!("kernels/parts/rows_one.wgsl"),
        };
        let kernel = match self {
            Self::Forward => include_str!("kernels/attention.wgsl"),
            Self::BackwardQueries => include_str!("kernels/attention_backward_queries.wgsl"),
            Self::BackwardKeys => include_str!("kernels/attention_backward_keys.wgsl"),
            Self::BackwardValues => include_str!("kernels/attention_backward_values.wgsl"),
        };
        let lanes = match self {
            Self::Forward | Self::BackwardQueries => "",
            Self::BackwardKeys | Self::BackwardValues => threads.part(),
        };
        let kernel = repeated(&by_rows(kernel, threads.attention_rows()), head_dim);
        [rows, lanes, include_str!("kernels/parts/attention.wgsl"), &kernel].join("\n")
    }
}

/// A matrix product: how it is computed, and how its sides lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Product {
    pub variant: Variant,
    pub left_vec4: bool,
    pub left_transposed: bool,
    pub right: Numbers,
    pub right_transposed: bool,
    /// Columns that one workgroup makes.
    pub columns: usize,
}

impl Product {
    fn source(self) -> String {
        let mut constants = format!(
            "const LEFT_TRANSPOSED: bool = {};\nconst RIGHT_TRANSPOSED: bool = {};\n",
            self.left_transposed, self.right_transposed
        );
        let body: String = match self.variant {
            Variant::Direct => include_str!("kernels/matmul_direct.wgsl").into(),
            Variant::Blocks => include_str!("kernels/matmul_blocks.wgsl").into(),
            Variant::Rows => repeated(include_str!("kernels/matmul_rows.wgsl"), self.columns),
            Variant::Subgroups => repeated(include_str!("kernels/matmul_subgroups.wgsl"), SUBGROUP_ROWS),
            Variant::Tiled(side) => {
                constants += &format!("const SIDE: u32 = {side}u;\n");
                include_str!("kernels/matmul_tiled.wgsl").into()
            }
        };
        let left = match self.left_vec4 {
            false => include_str!("kernels/parts/left_scalar.wgsl"),
            true => include_str!("kernels/parts/left_vec4.wgsl"),
        };
        let right = match (self.variant, self.right) {
            (Variant::Rows, Numbers::Packed(Form::Bf16)) => include_str!("kernels/parts/right_bf16_words.wgsl"),
            (_, right) => right.part(),
        };
        // A browser wants to be told; naga, which reads WGSL elsewhere, does not know the word.
        let enable = match self.variant {
            Variant::Subgroups if cfg!(target_arch = "wasm32") => "enable subgroups;\n",
            _ => "",
        };
        [enable, &constants, include_str!("kernels/parts/matmul.wgsl"), left, right, &body].join("\n")
    }
}

macro_rules! kernels {
    ($($name:ident = $file:literal,)*) => {
        /// An operation; a file has its name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kernel {
            $($name,)*
            /// With the columns of a head.
            Attention(Attend, RowWise, usize),
            Product(Product),
            RmsNorm(RowWise),
            RmsNormBackward(RowWise),
            Transpose,
            WidenRows(Numbers),
        }

        impl Kernel {
            /// The operations that are one file.
            #[cfg(test)]
            const SINGLE: &[Self] = &[$(Self::$name,)*];

            fn source(self) -> String {
                match self {
                    $(Self::$name => include_str!(concat!("kernels/", $file, ".wgsl")).into(),)*
                    Self::Attention(attend, threads, head_dim) => attend.source(threads, head_dim),
                    Self::Product(product) => product.source(),
                    Self::RmsNorm(threads) => {
                        let put = match threads {
                            RowWise::Shared => include_str!("kernels/parts/norm_plain.wgsl"),
                            RowWise::Alone => include_str!("kernels/parts/norm_copied.wgsl"),
                        };
                        let one = include_str!("kernels/parts/rows_one.wgsl");
                        [one, threads.part(), include_str!("kernels/rms_norm.wgsl"), put].join("\n")
                    }
                    Self::RmsNormBackward(threads) => {
                        let one = include_str!("kernels/parts/rows_one.wgsl");
                        [one, threads.part(), include_str!("kernels/rms_norm_backward.wgsl")].join("\n")
                    }
                    Self::Transpose => repeated(include_str!("kernels/transpose.wgsl"), TRANSPOSED_COLUMNS),
                    Self::WidenRows(right) => [right.part(), include_str!("kernels/widen_rows.wgsl")].join("\n"),
                }
            }
        }
    };
}

kernels! {
    AdafactorApply = "adafactor_apply",
    AdafactorScale = "adafactor_scale",
    Adamw = "adamw",
    Add = "add",
    ColumnSquares = "column_squares",
    ColumnSum = "column_sum",
    CopyWindow = "copy_window",
    CrossEntropy = "cross_entropy",
    CrossEntropyBackward = "cross_entropy_backward",
    GatherRows = "gather_rows",
    HeadProducts = "head_products",
    LogSumExpChunks = "log_sum_exp_chunks",
    ReplaceHeads = "replace_heads",
    RmsNormGainGradient = "rms_norm_gain_gradient",
    RmsScale = "rms_scale",
    Rotate = "rotate",
    RowSquares = "row_squares",
    ScaleColumns = "scale_columns",
    ScatterRows = "scatter_rows",
    Sum = "sum",
    SumOfSquares = "sum_of_squares",
    SumParts = "sum_parts",
    Swiglu = "swiglu",
    SwigluBackward = "swiglu_backward",
}

pub struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    /// Numbers of the storage bindings that the source declares.
    bindings: Vec<u32>,
}

/// Bytes of the largest `Params`.
const LARGEST_PARAMETERS: u64 = 64;

impl Pipeline {
    pub fn new(device: &wgpu::Device, kernel: Kernel) -> Self {
        let source = kernel.source();
        let name = format!("{kernel:?}");
        let uniform = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Uniform,
            has_dynamic_offset: true,
            min_binding_size: None,
        };
        let mut entries = vec![entry(0, uniform)];
        // The kernel's own declarations say which buffers it binds, and which it writes.
        for line in source.lines().filter(|line| line.contains("var<storage")) {
            let number = line.split("@binding(").nth(1).and_then(|rest| rest.split(')').next()?.parse().ok());
            let read_only = !line.contains("read_write");
            let storage = wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only },
                has_dynamic_offset: false,
                min_binding_size: None,
            };
            entries.extend(number.map(|number| entry(number, storage)));
        }
        let bindings = entries[1..].iter().map(|entry| entry.binding).collect();
        let label = Some(name.as_str());
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label,
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Self { pipeline, layout, bindings }
    }

    /// `bound[i]` is for binding `i+1`; those that the kernel does not declare are left out.
    pub fn bind(&self, device: &wgpu::Device, parameters: &wgpu::Buffer, bound: &[Binding<'_>]) -> wgpu::BindGroup {
        let uniform = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: parameters,
            offset: 0,
            size: std::num::NonZero::new(LARGEST_PARAMETERS),
        });
        let storage = self
            .bindings
            .iter()
            .map(|number| wgpu::BindGroupEntry { binding: *number, resource: bound[*number as usize - 1].resource() });
        let entries: Vec<_> =
            std::iter::once(wgpu::BindGroupEntry { binding: 0, resource: uniform }).chain(storage).collect();
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &self.layout, entries: &entries })
    }
}

fn entry(binding: u32, ty: wgpu::BindingType) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry { binding, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None }
}

#[cfg(test)]
mod tests {
    use super::{Attend, Kernel, Numbers, Product, RowWise, Variant};
    use crate::model::Form;
    use std::collections::BTreeMap;

    /// Every kernel in every composition that can occur, by a name for its file.
    fn sources() -> BTreeMap<String, String> {
        let packed = Form::ALL.into_iter().filter(|form| *form != Form::F32).map(Numbers::Packed);
        let numbers = [Numbers::Scalar, Numbers::Vec4].into_iter().chain(packed);
        let sides = [(false, true), (false, false), (true, false), (true, true)];
        let mut all = [Kernel::SINGLE, &[Kernel::Transpose]].concat();
        for threads in [RowWise::Alone, RowWise::Shared] {
            all.extend([Kernel::RmsNorm(threads), Kernel::RmsNormBackward(threads)]);
            for head_dim in [2, 10, 64, 128] {
                all.extend(Attend::ALL.map(|attend| Kernel::Attention(attend, threads, head_dim)));
            }
        }
        for right in numbers {
            all.push(Kernel::WidenRows(right));
            for variant in Variant::ALL {
                let all_sides = [true, false].into_iter().flat_map(|vec4| sides.map(|sides| (vec4, sides)));
                for (left_vec4, (left_transposed, right_transposed)) in all_sides {
                    // Rows are read one by one, transposed.
                    if variant == Variant::Rows && (left_vec4 || !left_transposed) {
                        continue;
                    }
                    for &columns in variant.columns(right, right_transposed) {
                        let product = Product { variant, left_vec4, left_transposed, right, right_transposed, columns };
                        all.push(Kernel::Product(product));
                    }
                }
            }
        }
        let name = |kernel: &Kernel| format!("{kernel:?}").replace(|c: char| !c.is_alphanumeric(), "_");
        let sources: BTreeMap<_, _> = all.iter().map(|kernel| (name(kernel), kernel.source())).collect();
        assert_eq!(sources.len(), all.len(), "two compositions have one name");
        sources
    }

    /// Promise: every composition of the kernels is written where `cargo xtask test` has the reference validators read it.
    #[test]
    fn compositions_are_written_for_the_validators() {
        let sources = sources();
        let Some(folder) = std::env::var_os("CTSFT_KERNELS").map(std::path::PathBuf::from) else { return };
        std::fs::create_dir_all(&folder).expect("a folder");
        for (name, source) in sources {
            std::fs::write(folder.join(name).with_extension("wgsl"), source).expect("a file");
        }
    }
}
