//! A short tour: sentences, embedded under whatever task is active, and how near they are.

use crate::{encoder::embedding, error::Error, in_place::InPlace, model::Model};
use std::{io::Write, path::PathBuf, time::Instant};
use synchromesh::client::{Attachment, Lease};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The daemon's attach socket.
    #[arg(long, value_name = "SOCKET")]
    attach: PathBuf,
    /// The model's folder, for its tokenizer and its shape.
    #[arg(long, value_name = "FOLDER", default_value = "target/minilm")]
    model: PathBuf,
    /// The sentences.
    #[arg(required = true)]
    sentences: Vec<String>,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<(), Error> {
    let model = Model::open(&args.model)?;
    let mut session = Attachment::connect(&args.attach, "", "")?;
    let lease = session.lease()?;
    let begun = Instant::now();
    let in_place = InPlace { source: &lease, config: model.config };
    let embed = |sentence: &String| embedding(&in_place, &model.config, &model.tokens(sentence)?);
    let embeddings: Vec<_> = args.sentences.iter().map(embed).collect::<Result<_, _>>()?;
    let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    let mut text = heading(&lease, milliseconds);
    for (number, (sentence, embedding)) in args.sentences.iter().zip(&embeddings).enumerate() {
        let others = embeddings[..number].iter().map(|other| cosine(embedding, other));
        let nearness: String = others.map(|cosine| format!(" {cosine:6.3}")).collect();
        text += &format!("{:>3}{nearness}  {sentence}\n", number + 1);
    }
    out.write_all(text.as_bytes()).map_err(Error::io("the result cannot be written"))
}

fn heading(lease: &Lease<'_>, milliseconds: f64) -> String {
    let bundle = lease.bundle();
    let task = bundle.task(lease.task());
    let mib = (task.blocks * bundle.block().bytes()) as f64 / f64::from(1 << 20);
    format!(
        "task {}, generation {}: {milliseconds:.1} ms on {mib:.1} MiB of blocks in the daemon's \
         memory\ncosine of each sentence to those before it:\n",
        task.name,
        lease.generation().0
    )
}

/// Embeddings have length 1.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
