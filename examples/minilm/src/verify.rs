//! The proof: while another process switches tasks as fast as it can, every embedding is that of
//! the task that the lease names.

use crate::{
    encoder::embedding,
    error::Error,
    in_place::InPlace,
    model::Model,
    references::{References, TOLERANCE},
    switching::{Done, Switching},
};
use std::{
    collections::HashSet,
    io::Write,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};
use synchromesh::{
    bundle::Bundle,
    client::{AttachError, Attachment},
    units::{Generation, TaskIndex},
};

/// Two for each task of the example's recipe, and a few of everyday life.
const SENTENCES: [&str; 14] = [
    "This header declares the functions that allocate and free memory.",
    "The macro expands to the size of the structure in bytes.",
    "Fixed a crash when the configuration file is empty.",
    "New upstream release; closes two bugs and drops an old patch.",
    "Permission is hereby granted, free of charge, to any person.",
    "This software comes without any warranty, not even of fitness for a purpose.",
    "The option prints a short summary of the command and exits.",
    "On success, the call returns zero; on error, it returns minus one.",
    "This package contains the shared libraries and the documentation.",
    "A lightweight viewer for images, with few dependencies.",
    "The method raises an exception if the list is empty.",
    "Iterate over the dictionary and collect its keys.",
    "The car slows down because a child runs after a ball.",
    "It rains.",
];
/// How long to wait for a session that has no task at the moment.
const NO_TASK_PAUSE: Duration = Duration::from_micros(200);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The bundle's file, for its masks.
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// The model's folder, for its original weights.
    #[arg(long, value_name = "FOLDER", default_value = "target/minilm")]
    model: PathBuf,
    /// The daemon's attach socket.
    #[arg(long, value_name = "SOCKET")]
    attach: PathBuf,
    /// The daemon's control socket.
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// For how long.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<(), Error> {
    let mut say = |text: String| writeln!(out, "{text}").map_err(Error::io("the report is cut"));
    let model = Model::open(&args.model)?;
    let bundle = Bundle::open(&args.bundle)?;
    let session = Attachment::connect(&args.attach, "", "")?;
    check_same(&bundle, session.bundle(), args)?;

    let begun = Instant::now();
    let sentences: Vec<_> =
        SENTENCES.iter().map(|s| model.tokens(s)).collect::<Result<_, Error>>()?;
    let references = References::compute(&model, &bundle, &sentences)?;
    say(references_text(&references, &bundle, begun.elapsed()))?;
    references.check_margin()?;

    let names = bundle.task_indices().map(|task| bundle.task(task).name.as_str());
    let mut switching = Switching::start(&args.control, names)?;
    let mut watch = Watch { model, bundle: &bundle, sentences, references, seen: Seen::default() };
    let seconds = watch.run(session, &mut switching, Duration::from_secs(args.seconds))?;
    let done = switching.end()?;
    say(watch.seen.text(&bundle, done, seconds))?;
    watch.seen.check(&bundle, seconds)
}

fn check_same(file: &Bundle, served: &Bundle, args: &Args) -> Result<(), Error> {
    if file.id() == served.id() {
        return Ok(());
    }
    Err(Error::OtherBundle {
        served: served.id().to_string(),
        path: args.bundle.display().to_string(),
        named: file.id().to_string(),
    })
}

fn references_text(references: &References, bundle: &Bundle, took: Duration) -> String {
    let (nearest, farthest) = references.tasks_apart();
    format!(
        "expected: {} sentences under {} tasks, computed in {:.1} s from the original model and \
         the bundle's masks\n\
         tasks differ by {:.2} % of their blocks; their embeddings of a sentence are {nearest:.4} \
         to {farthest:.4} apart\n\
         block-sparse and dense differ by at most {:.2e}; {TOLERANCE:.0e} is tolerated, {:.0} times less \
         than what tells the nearest tasks apart",
        SENTENCES.len(),
        bundle.task_indices().count(),
        took.as_secs_f64(),
        100.0 * bundle.mean_diff(),
        references.rounding(),
        nearest / TOLERANCE,
    )
}

/// What is needed to check embeddings, and what came of it.
struct Watch<'a> {
    model: Model,
    bundle: &'a Bundle,
    sentences: Vec<Vec<u32>>,
    references: References,
    seen: Seen,
}

impl Watch<'_> {
    /// Embeds and checks until the time is over; tells how long that was.
    fn run(
        &mut self,
        mut session: Attachment,
        switching: &mut Switching,
        time: Duration,
    ) -> Result<f64, Error> {
        let begun = Instant::now();
        for sentence in (0..self.sentences.len()).cycle() {
            if begun.elapsed() >= time || !switching.goes_on()? {
                break;
            }
            self.embed(&mut session, sentence)?;
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    /// One inference under one lease.
    fn embed(&mut self, session: &mut Attachment, sentence: usize) -> Result<(), Error> {
        let lease = match session.lease() {
            Err(AttachError::NoTask) => {
                thread::sleep(NO_TASK_PAUSE);
                return Ok(());
            }
            lease => lease?,
        };
        let (task, generation) = (lease.task(), lease.generation());
        let config = self.model.config;
        let in_place = InPlace { source: &lease, config };
        let got = embedding(&in_place, &config, &self.sentences[sentence])?;
        drop(lease);
        self.seen.inferences += 1;
        self.seen.overtaken += u64::from(session.generation() != generation);
        self.seen.tasks.insert(task);
        self.seen.generations.insert(generation);
        match self.references.fault(task, sentence, &got) {
            None => Ok(()),
            Some(what) => Err(Error::Differs {
                sentence: SENTENCES[sentence],
                task: self.bundle.task(task).name.clone(),
                generation: generation.0,
                what,
            }),
        }
    }
}

/// What was seen under leases.
#[derive(Default)]
struct Seen {
    inferences: u64,
    /// Those during which the session was switched.
    overtaken: u64,
    tasks: HashSet<TaskIndex>,
    generations: HashSet<Generation>,
}

impl Seen {
    fn text(&self, bundle: &Bundle, done: Done, seconds: f64) -> String {
        format!(
            "{} inferences in {seconds:.1} s, each as expected: {} of {} tasks, {} generations; a \
             switch overtook {}\nmeanwhile {} switches, which read {:.1} MiB",
            self.inferences,
            self.tasks.len(),
            bundle.task_indices().count(),
            self.generations.len(),
            self.overtaken,
            done.switches,
            done.read_bytes as f64 / f64::from(1 << 20),
        )
    }

    fn check(&self, bundle: &Bundle, seconds: f64) -> Result<(), Error> {
        let (seen, all) = (self.tasks.len(), bundle.task_indices().count());
        if seen < all { Err(Error::TooFewTasks { seen, all, seconds }) } else { Ok(()) }
    }
}
