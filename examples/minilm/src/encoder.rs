//! The encoder: BERT as all-MiniLM-L6-v2 has it, from token ids to a sentence's embedding. It does
//! not know where weights lie, nor how they are multiplied.

use crate::{error::Error, model::Config};
use candle_core::{D, Tensor};

/// Weights as the encoder uses them. Activations are tokens x features.
pub(crate) trait Weights {
    /// For each token the sum of its word's, its position's and the first type's embedding.
    fn embed(&self, ids: &[u32]) -> Result<Tensor, Error>;
    /// x · Wᵀ + b, of `{name}.weight` and `{name}.bias`.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor, Error>;
    /// Layer normalisation by `{name}.LayerNorm.weight` and `{name}.LayerNorm.bias`.
    fn normalise(&self, name: &str, x: &Tensor) -> Result<Tensor, Error>;
}

/// The embedding of a sentence: the mean over its tokens, of length 1.
pub(crate) fn embedding(
    weights: &impl Weights,
    config: &Config,
    ids: &[u32],
) -> Result<Vec<f32>, Error> {
    let mut x = weights.normalise("embeddings", &weights.embed(ids)?)?;
    for layer in 0..config.num_hidden_layers {
        x = transform(weights, config, &format!("encoder.layer.{layer}"), &x)?;
    }
    let mean = x.mean(0)?;
    let length = mean.sqr()?.sum_all()?.sqrt()?;
    Ok(mean.broadcast_div(&length)?.to_vec1()?)
}

fn transform(
    weights: &impl Weights,
    config: &Config,
    layer: &str,
    x: &Tensor,
) -> Result<Tensor, Error> {
    let attended = attend(weights, config, &format!("{layer}.attention.self"), x)?;
    let attended = add(weights, &format!("{layer}.attention.output"), x, &attended)?;
    let grown = weights.linear(&format!("{layer}.intermediate.dense"), &attended)?.gelu_erf()?;
    add(weights, &format!("{layer}.output"), &attended, &grown)
}

/// Projects `inputs`, adds the result to the residual stream, and normalises.
fn add(
    weights: &impl Weights,
    name: &str,
    residual: &Tensor,
    inputs: &Tensor,
) -> Result<Tensor, Error> {
    let projected = weights.linear(&format!("{name}.dense"), inputs)?;
    weights.normalise(name, &(residual + projected)?)
}

fn attend(
    weights: &impl Weights,
    config: &Config,
    name: &str,
    x: &Tensor,
) -> Result<Tensor, Error> {
    let (tokens, hidden) = x.dims2()?;
    let heads = config.num_attention_heads;
    let split = |part: &str| -> Result<Tensor, Error> {
        let projected = weights.linear(&format!("{name}.{part}"), x)?;
        Ok(projected.reshape((tokens, heads, hidden / heads))?.transpose(0, 1)?.contiguous()?)
    };
    let (query, key, value) = (split("query")?, split("key")?, split("value")?);
    let scale = 1.0 / ((hidden / heads) as f64).sqrt();
    let scores = (query.matmul(&key.t()?)? * scale)?;
    let attended = softmax(&scores)?.matmul(&value)?;
    Ok(attended.transpose(0, 1)?.contiguous()?.reshape((tokens, hidden))?)
}

fn softmax(x: &Tensor) -> candle_core::Result<Tensor> {
    let powers = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use super::embedding;
    use crate::{dense::Dense, model::Model};
    use std::{env, path::PathBuf};

    /// What scripts/minilm.py computes.
    const EXPECTED: [(&str, [f32; 6]); 2] = [
        ("It rains.", [0.00963108, 0.01797999, 0.10273052, 0.07502048, 0.05918211, -0.00417558]),
        (
            "The car slows down because a child runs after a ball.",
            [0.01686924, 0.07200071, 0.0170966, 0.00744773, 0.03760022, 0.032472],
        ),
    ];

    #[test]
    #[ignore = "needs the model: run scripts/fetch-minilm.sh, then \
                cargo test -p minilm-example -- --ignored"]
    fn the_original_model_gives_the_embeddings_that_another_program_computes() {
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/minilm");
        let folder = env::var_os("SYNCHROMESH_MINILM").map_or_else(|| beside.into(), PathBuf::from);
        let model = Model::open(&folder).unwrap();
        let dense = Dense { tensors: model.tensors().unwrap(), config: model.config };
        for (sentence, expected) in EXPECTED {
            let ids = model.tokens(sentence).unwrap();
            let got = embedding(&dense, &model.config, &ids).unwrap();
            assert_eq!(got.len(), model.config.hidden_size);
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-6, "{sentence}: {got} is not {expected}");
            }
        }
    }
}
