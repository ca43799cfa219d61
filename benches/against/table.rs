//! The result: a row for each figure, as Markdown.

use std::fmt;

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// Nothing is promised.
    None,
    /// At most so many times the reference.
    Times(f64),
    /// At least so many times the reference.
    AtLeastTimes(f64),
    AtMost(f64),
    /// At most so much more than the reference.
    Within(f64),
    /// Exactly so many; anything else fails the run.
    Exactly(f64),
}

/// A figure of ours beside others.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) ours: f64,
    /// What it is compared with, and who that is.
    pub(crate) reference: Option<(f64, &'static str)>,
    /// docker-registry's figure.
    pub(crate) registry: Option<f64>,
    pub(crate) target: Target,
}

#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Row {
    pub(crate) fn new(what: impl Into<String>, ours: f64) -> Self {
        Self {
            what: what.into(),
            ours,
            reference: None,
            registry: None,
            target: Target::None,
        }
    }

    pub(crate) fn beside(mut self, reference: Option<f64>, who: &'static str) -> Self {
        self.reference = reference.map(|figure| (figure, who));
        self
    }

    pub(crate) fn registry(mut self, figure: Option<f64>) -> Self {
        self.registry = figure;
        self
    }

    pub(crate) fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    fn is_met(&self) -> Option<bool> {
        let reference = self.reference.map(|(figure, _)| figure);
        Some(match self.target {
            Target::None => return None,
            Target::Times(times) => self.ours <= times * reference?,
            Target::AtLeastTimes(times) => self.ours >= times * reference?,
            Target::AtMost(most) => self.ours <= most,
            Target::Within(more) => self.ours <= more + reference?,
            Target::Exactly(count) => self.is_exactly(count),
        })
    }

    fn is_exactly(&self, count: f64) -> bool {
        (self.ours - count).abs() < f64::EPSILON
    }
}

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("{row}");
        self.0.push(row);
    }

    /// Whether something is not as it has to be on every machine.
    pub(crate) fn is_wrong(&self) -> bool {
        let wrong =
            |row: &Row| matches!(row.target, Target::Exactly(count) if !row.is_exactly(count));
        self.0.iter().any(wrong)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Times(times) => write!(out, "<= {times} x"),
            Self::AtLeastTimes(times) => write!(out, ">= {times} x"),
            Self::AtMost(most) => write!(out, "<= {most}"),
            Self::Within(more) => write!(out, "<= +{more}"),
            Self::Exactly(count) => write!(out, "{count}"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reference, ratio) = match self.reference {
            Some((figure, who)) => (
                format!("{} {who}", short(figure)),
                format!("{:.2}", self.ours / figure),
            ),
            None => (String::new(), String::new()),
        };
        let registry = self.registry.map(short).unwrap_or_default();
        let met = match self.is_met() {
            None => "",
            Some(true) => "yes",
            Some(false) => "**no**",
        };
        let (what, ours, target) = (&self.what, short(self.ours), self.target);
        write!(
            out,
            "| {what} | {ours} | {reference} | {registry} | {ratio} | {target} | {met} |"
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "| | mirror | reference | docker-registry | mirror / reference | target | met |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|")?;
        self.0.iter().try_for_each(|row| writeln!(out, "{row}"))
    }
}

/// Three digits that count, and no exponent.
fn short(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 || figure.fract().abs() < 1e-9 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}
