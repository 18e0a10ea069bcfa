//! The kernels and their pipelines. Each kernel is one WGSL file; its header says what it computes.

use super::buffers::Buffer;

/// An operation; its file has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    Adamw,
    Add,
    AttentionMix,
    AttentionMixBackward,
    AttentionPattern,
    AttentionPatternBackward,
    ColumnSum,
    CopyWindow,
    CrossEntropy,
    CrossEntropyBackward,
    GatherRows,
    HeadProducts,
    LogSumExpChunks,
    Matmul,
    ReplaceHeads,
    RmsFactor,
    RmsNorm,
    RmsNormBackward,
    RmsNormGainGradient,
    RmsPull,
    Rotate,
    ScaleColumns,
    ScatterRows,
    Sum,
    SumOfSquares,
    Swiglu,
    SwigluBackward,
}

impl Kernel {
    fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::Adamw => ("adamw", include_str!("kernels/adamw.wgsl")),
            Self::Add => ("add", include_str!("kernels/add.wgsl")),
            Self::AttentionMix => ("attention_mix", include_str!("kernels/attention_mix.wgsl")),
            Self::AttentionMixBackward => {
                ("attention_mix_backward", include_str!("kernels/attention_mix_backward.wgsl"))
            }
            Self::AttentionPattern => ("attention_pattern", include_str!("kernels/attention_pattern.wgsl")),
            Self::AttentionPatternBackward => {
                ("attention_pattern_backward", include_str!("kernels/attention_pattern_backward.wgsl"))
            }
            Self::ColumnSum => ("column_sum", include_str!("kernels/column_sum.wgsl")),
            Self::CopyWindow => ("copy_window", include_str!("kernels/copy_window.wgsl")),
            Self::CrossEntropy => ("cross_entropy", include_str!("kernels/cross_entropy.wgsl")),
            Self::CrossEntropyBackward => {
                ("cross_entropy_backward", include_str!("kernels/cross_entropy_backward.wgsl"))
            }
            Self::GatherRows => ("gather_rows", include_str!("kernels/gather_rows.wgsl")),
            Self::HeadProducts => ("head_products", include_str!("kernels/head_products.wgsl")),
            Self::LogSumExpChunks => ("log_sum_exp_chunks", include_str!("kernels/log_sum_exp_chunks.wgsl")),
            Self::Matmul => ("matmul", include_str!("kernels/matmul.wgsl")),
            Self::ReplaceHeads => ("replace_heads", include_str!("kernels/replace_heads.wgsl")),
            Self::RmsFactor => ("rms_factor", include_str!("kernels/rms_factor.wgsl")),
            Self::RmsNorm => ("rms_norm", include_str!("kernels/rms_norm.wgsl")),
            Self::RmsNormBackward => ("rms_norm_backward", include_str!("kernels/rms_norm_backward.wgsl")),
            Self::RmsNormGainGradient => {
                ("rms_norm_gain_gradient", include_str!("kernels/rms_norm_gain_gradient.wgsl"))
            }
            Self::RmsPull => ("rms_pull", include_str!("kernels/rms_pull.wgsl")),
            Self::Rotate => ("rotate", include_str!("kernels/rotate.wgsl")),
            Self::ScaleColumns => ("scale_columns", include_str!("kernels/scale_columns.wgsl")),
            Self::ScatterRows => ("scatter_rows", include_str!("kernels/scatter_rows.wgsl")),
            Self::Sum => ("sum", include_str!("kernels/sum.wgsl")),
            Self::SumOfSquares => ("sum_of_squares", include_str!("kernels/sum_of_squares.wgsl")),
            Self::Swiglu => ("swiglu", include_str!("kernels/swiglu.wgsl")),
            Self::SwigluBackward => ("swiglu_backward", include_str!("kernels/swiglu_backward.wgsl")),
        }
    }
}

pub struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// Bytes of the largest `Params`.
const LARGEST_PARAMETERS: u64 = 48;

impl Pipeline {
    pub fn new(device: &wgpu::Device, kernel: Kernel) -> Self {
        let (name, source) = kernel.source();
        let storage = |read_only| wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only },
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let uniform = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Uniform,
            has_dynamic_offset: true,
            min_binding_size: None,
        };
        // The kernel's own declarations say which buffers it writes.
        let buffers = source.lines().filter_map(|line| match line {
            line if line.contains("var<storage, read_write>") => Some(storage(false)),
            line if line.contains("var<storage, read>") => Some(storage(true)),
            _ => None,
        });
        let entry = |(binding, ty): (usize, wgpu::BindingType)| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty,
            count: None,
        };
        let entries: Vec<_> = std::iter::once(uniform).chain(buffers).enumerate().map(entry).collect();
        let layout =
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Self { pipeline, layout }
    }

    pub fn bind(&self, device: &wgpu::Device, parameters: wgpu::Buffer, buffers: &[&Buffer]) -> wgpu::BindGroup {
        let uniform = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &parameters,
            offset: 0,
            size: std::num::NonZero::new(LARGEST_PARAMETERS),
        });
        let resources = std::iter::once(uniform).chain(buffers.iter().map(|b| b.raw().as_entire_binding()));
        let entries: Vec<_> = resources
            .enumerate()
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding: binding as u32, resource })
            .collect();
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &self.layout, entries: &entries })
    }
}
