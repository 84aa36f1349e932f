//! Contenders measured in turn, so that a machine whose speed drifts drifts for all of them.

use std::path::PathBuf;

/// Who is measured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Contender {
    /// What the machine allows: the same work by the barest means.
    Floor,
    /// A `rulesyncd` program.
    Build(PathBuf),
}

/// How samples are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Bytes,
    Percent,
    PerSecond,
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// At most so many times the floor.
    Times(f64),
    /// At most so much above the floor.
    Above(f64),
    /// At most so much.
    AtMost(f64),
}

/// The samples of one round; none where the contender has nothing to show.
type Measure<'a> = dyn FnMut(&Contender) -> Vec<f64> + 'a;

/// One figure: something that is measured of each contender, in rounds.
pub(crate) struct Figure<'a> {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) goal: Option<Goal>,
    pub(crate) rounds: usize,
    /// What it is one point of, and of how many rules.
    pub(crate) series: Option<(&'static str, usize)>,
    /// Which part of the samples is below what is told: 0.5 is the median.
    pub(crate) quantiles: &'static [f64],
    pub(crate) measure: Box<Measure<'a>>,
}

impl<'a> Figure<'a> {
    pub(crate) fn new(
        name: impl Into<String>,
        unit: Unit,
        measure: impl FnMut(&Contender) -> Vec<f64> + 'a,
    ) -> Self {
        let (name, measure) = (name.into(), Box::new(measure));
        Self { name, unit, goal: None, rounds: 5, series: None, quantiles: &[0.5], measure }
    }

    pub(crate) fn goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }

    pub(crate) fn rounds(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }

    pub(crate) fn series(self, name: &'static str, count: usize) -> Self {
        Self { series: Some((name, count)), ..self }
    }

    pub(crate) fn quantiles(self, quantiles: &'static [f64]) -> Self {
        Self { quantiles, ..self }
    }

    /// Measures `contenders` in turn and tells a line for each quantile.
    pub(crate) fn run(mut self, contenders: &[Contender]) -> Vec<Line> {
        let mut samples: Vec<Vec<Vec<f64>>> = vec![Vec::new(); contenders.len()];
        for round in 0..self.rounds {
            for turn in 0..contenders.len() {
                // Whoever comes first in one round comes last in the next.
                let turn = if round % 2 == 0 { turn } else { contenders.len() - 1 - turn };
                let mut taken = (self.measure)(&contenders[turn]);
                taken.sort_by(f64::total_cmp);
                samples[turn].push(taken);
            }
        }
        let told = self.quantiles.iter().map(|&share| {
            let by_round =
                |rounds: &Vec<Vec<f64>>| rounds.iter().filter_map(|round| quantile(round, share)).collect();
            Line {
                name: match share {
                    0.5 => self.name.clone(),
                    share => format!("{}, {} %", self.name, share * 100.0),
                },
                unit: self.unit,
                goal: self.goal.filter(|_| share == 0.5),
                series: self.series,
                rounds: samples.iter().map(by_round).collect(),
            }
        });
        told.collect()
    }
}

/// What came of a figure: each contender's rounds.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) goal: Option<Goal>,
    pub(crate) series: Option<(&'static str, usize)>,
    pub(crate) rounds: Vec<Vec<f64>>,
}

/// The value below which `share` of the sorted samples are.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index that exists")]
    sorted.get((last as f64 * share).round() as usize).copied()
}

pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

impl Line {
    pub(crate) fn median(&self, contender: usize) -> Option<f64> {
        median(self.rounds.get(contender)?)
    }

    /// How many times the first contender's figure the second's is, round by round, sorted.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let [first, second] = &self.rounds[..] else { return Vec::new() };
        let mut ratios: Vec<f64> = first.iter().zip(second).map(|(first, second)| second / first).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// Whether the goal is reached; `None` where there is none, or nothing to compare with.
    pub(crate) fn is_reached(&self) -> Option<bool> {
        let ours = self.median(self.rounds.len() - 1)?;
        Some(match self.goal? {
            Goal::Times(times) => *quantile(&self.ratios(), 0.5).as_ref()? <= times,
            Goal::Above(above) => ours - self.median(0)? <= above,
            Goal::AtMost(most) => ours <= most,
        })
    }

    /// Whether the second contender's figure is another than the first's: in three quarters of the
    /// rounds it is off in one direction, and by more than 3 % in the middle one.
    pub(crate) fn moved(&self) -> Option<f64> {
        let ratios = self.ratios();
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| quantile(&ratios, share));
        let (low, middle, high) = (low?, middle?, high?);
        ((low > 1.0 || high < 1.0) && (middle - 1.0).abs() > 0.03).then_some(middle)
    }
}
