//! A checkpoint opened from files: configuration, tokenizer and tensors, read one at a time.

use super::config::Parameter;
use super::gguf::GgufFile;
use super::safetensors::SafetensorsFile;
use super::stored::{Form, Rows};
use super::{ModelConfig, ModelError, Tokenizer};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

/// A file's bytes: a file on disk, a browser `File`, or memory.
pub trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// A named file of a checkpoint.
pub struct ModelFile {
    pub name: String,
    pub bytes: Box<dyn Source>,
}

impl ModelFile {
    fn text(&mut self) -> Result<String, ModelError> {
        let mut text = String::new();
        self.bytes
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.bytes.read_to_string(&mut text))
            .map_err(|e| ModelError::Read(self.name.clone(), e))?;
        Ok(text)
    }
}

enum Tensors {
    Safetensors { files: Vec<SafetensorsFile>, holder: BTreeMap<String, usize> },
    Gguf(Box<GgufFile>),
}

/// An opened checkpoint. Tensors stay in their file until they are asked for.
pub struct Checkpoint {
    pub config: ModelConfig,
    pub tokenizer: Option<Tokenizer>,
    /// What the weights are stored as, for people: "bf16 safetensors", "Q4_1 GGUF".
    pub format: String,
    /// SHA-256 over the weight files in the order of their names, hexadecimal.
    pub hash: String,
    tensors: Tensors,
}

impl Checkpoint {
    /// Opens a checkpoint from its files: one `.gguf`, or `config.json` with one or more `.safetensors`
    /// (sharded ones with or without their index) and, for prompts, `tokenizer.json`.
    ///
    /// # Errors
    /// Names the file, field or tensor that is missing, damaged or not supported. Every tensor's presence, shape
    /// and type is checked here, before any weight is read.
    pub fn open(files: Vec<ModelFile>) -> Result<Self, ModelError> {
        let given = files.iter().map(|f| f.name.clone()).collect::<Vec<_>>().join(", ");
        let (mut config, mut tokenizer, mut index) = (None, None, None);
        let mut weights = Vec::new();
        for mut file in files {
            let base = file.name.rsplit(['/', '\\']).next().unwrap_or_default().to_ascii_lowercase();
            match base.as_str() {
                "config.json" => config = Some(file.text()?),
                "tokenizer.json" => tokenizer = Some(Tokenizer::from_json(file.text()?.as_bytes())?),
                name if name.ends_with(".safetensors.index.json") => index = Some(file.text()?),
                name if name.ends_with(".safetensors") || name.ends_with(".gguf") => weights.push(file),
                // Model folders hold other files (READMEs, vocabularies); they are not needed.
                _ => {}
            }
        }
        weights.sort_by(|a, b| a.name.cmp(&b.name));
        if weights.is_empty() {
            return Err(ModelError::MissingFile { missing: ".safetensors or .gguf file", given });
        }
        let hash = hash(&mut weights)?;
        if weights[0].name.to_ascii_lowercase().ends_with(".gguf") {
            if weights.len() > 1 {
                return Err(ModelError::BadFile {
                    file: weights[1].name.clone(),
                    problem: "only one .gguf file can be opened at a time (split GGUF files are not supported)".into(),
                });
            }
            let file = weights.swap_remove(0);
            let gguf = GgufFile::open(file)?;
            let config = gguf.config()?;
            let tokenizer = gguf.tokenizer()?;
            let format = gguf.format();
            let checkpoint =
                Self { config, tokenizer: Some(tokenizer), format, hash, tensors: Tensors::Gguf(Box::new(gguf)) };
            checkpoint.check_tensors()?;
            return Ok(checkpoint);
        }
        let config = config.ok_or(ModelError::MissingFile { missing: "config.json", given })?;
        let config = ModelConfig::from_hugging_face(&config)?;
        let files = weights.into_iter().map(SafetensorsFile::open).collect::<Result<Vec<_>, _>>()?;
        let mut holder = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for name in file.names() {
                if holder.insert(name.clone(), number).is_some() {
                    return Err(ModelError::BadFile {
                        file: file.name.clone(),
                        problem: format!("tensor `{name}` stands in another file too"),
                    });
                }
            }
        }
        if let Some(index) = index {
            check_index(&index, &files)?;
        }
        let format = format!("{} safetensors", files[0].dtype());
        let checkpoint = Self { config, tokenizer, format, hash, tensors: Tensors::Safetensors { files, holder } };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// A checkpoint of one safetensors file, unhashed.
    pub(super) fn of_weights(config: ModelConfig, file: ModelFile) -> Result<Self, ModelError> {
        let file = SafetensorsFile::open(file)?;
        let format = format!("{} safetensors, {}", file.dtype(), file.name);
        let holder = file.names().map(|name| (name.clone(), 0)).collect();
        let tensors = Tensors::Safetensors { files: vec![file], holder };
        Ok(Self { config, tokenizer: None, format, hash: String::new(), tensors })
    }

    /// The form in which a weight is kept. For f32 it takes a look at every value.
    ///
    /// # Errors
    /// A file that cannot be read, or a weight it does not hold.
    pub fn form(&mut self, name: &str) -> Result<Form, ModelError> {
        match &mut self.tensors {
            Tensors::Safetensors { files, holder } => holding(files, holder, name)?.form(name),
            Tensors::Gguf(file) => file.form(name),
        }
    }

    /// Reads some rows of a weight in its form (from [`Checkpoint::form`]).
    ///
    /// # Errors
    /// A truncated file or a non-finite weight, by the tensor's name.
    pub fn read_rows(&mut self, parameter: &Parameter, form: Form, range: Range<usize>) -> Result<Rows, ModelError> {
        let name = &parameter.name;
        let mut rows = Rows::new(form, parameter.cols);
        match &mut self.tensors {
            Tensors::Safetensors { files, holder } => {
                holding(files, holder, name)?.read_rows(name, range.clone(), &mut rows)?;
            }
            Tensors::Gguf(file) => file.read_rows(name, range.clone(), &mut rows, &self.config)?,
        }
        match rows.non_finite() {
            Some(at) => Err(ModelError::NonFinite { name: name.clone(), index: range.start * parameter.cols + at }),
            None => Ok(rows),
        }
    }

    /// Reads one weight widened to f32, row-major.
    ///
    /// # Errors
    /// As [`Checkpoint::read_rows`].
    pub fn read(&mut self, parameter: &Parameter) -> Result<Vec<f32>, ModelError> {
        let form = self.form(&parameter.name)?;
        let mut data = Vec::with_capacity(parameter.rows * parameter.cols);
        self.read_rows(parameter, form, 0..parameter.rows)?.widen(0..parameter.rows, &mut data);
        Ok(data)
    }

    fn check_tensors(&self) -> Result<(), ModelError> {
        for parameter in self.config.parameters() {
            let name = &parameter.name;
            let found = match &self.tensors {
                Tensors::Safetensors { files, holder } => holder.get(name).and_then(|file| files[*file].shape(name)),
                Tensors::Gguf(file) => file.shape(name),
            };
            let found = found.ok_or_else(|| ModelError::TensorMissing(name.clone()))?;
            let expected = if parameter.vector { vec![parameter.cols] } else { vec![parameter.rows, parameter.cols] };
            if found != expected {
                return Err(ModelError::TensorShape { name: name.clone(), found, expected });
            }
            match &self.tensors {
                Tensors::Safetensors { files, holder } => files[holder[name]].check_dtype(name)?,
                Tensors::Gguf(file) => file.check_dtype(name)?,
            }
        }
        Ok(())
    }
}

/// The file that holds a tensor.
fn holding<'a>(
    files: &'a mut [SafetensorsFile],
    holder: &BTreeMap<String, usize>,
    name: &str,
) -> Result<&'a mut SafetensorsFile, ModelError> {
    let file = *holder.get(name).ok_or_else(|| ModelError::TensorMissing(name.into()))?;
    Ok(&mut files[file])
}

fn check_index(index: &str, files: &[SafetensorsFile]) -> Result<(), ModelError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_str(index)
        .map_err(|e| ModelError::BadFile { file: "model.safetensors.index.json".into(), problem: e.to_string() })?;
    let base = |name: &str| name.rsplit(['/', '\\']).next().unwrap_or_default().to_string();
    for wanted in index.weight_map.values() {
        if !files.iter().any(|f| base(&f.name) == base(wanted)) {
            return Err(ModelError::BadFile {
                file: "model.safetensors.index.json".into(),
                problem: format!("it names the shard {wanted}, which was not opened; open all shards together"),
            });
        }
    }
    Ok(())
}

fn hash(files: &mut [ModelFile]) -> Result<String, ModelError> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    for file in files {
        let failed = |e| ModelError::Read(file.name.clone(), e);
        file.bytes.seek(SeekFrom::Start(0)).map_err(failed)?;
        loop {
            let read = file.bytes.read(&mut block).map_err(failed)?;
            if read == 0 {
                break;
            }
            hasher.update(&block[..read]);
        }
        file.bytes.seek(SeekFrom::Start(0)).map_err(failed)?;
    }
    Ok(hex(&hasher.finalize()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
