//! Going through a story, one visit after another, without end.

use super::stories::{Leg, Place};
use fastrand::Rng;

/// How likely one goes on as before an interruption.
const ONWARD: f64 = 0.75;
/// How long a task of no story lasts, in the middle; and one that is to leave no time.
const UNIFORM_SECONDS: f64 = 5.0;
const THRASH_SECONDS: f64 = 0.03;

/// A role that becomes active.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Visit {
    pub(super) role: usize,
    /// How long it lasts, in the middle.
    pub(super) seconds: f64,
}

/// The same legs each day, but for those that are met only now and then.
pub(super) struct Commute {
    legs: &'static [Leg],
    roles: Vec<&'static str>,
    next: usize,
    rng: Rng,
}

impl Commute {
    pub(super) fn new(legs: &'static [Leg], rng: Rng) -> Self {
        Self { legs, roles: Self::roles(legs), next: 0, rng }
    }

    /// Each role once, as they are first met.
    pub(super) fn roles(legs: &'static [Leg]) -> Vec<&'static str> {
        let mut roles = Vec::new();
        for leg in legs {
            if !roles.contains(&leg.role) {
                roles.push(leg.role);
            }
        }
        roles
    }
}

impl Iterator for Commute {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        loop {
            let leg = &self.legs[self.next];
            self.next = (self.next + 1) % self.legs.len();
            if self.rng.f64() < leg.chance {
                let role = self.roles.iter().position(|&role| role == leg.role)?;
                return Some(Visit { role, seconds: leg.seconds });
            }
        }
    }
}

/// About a map, from place to place; after an interruption mostly the way one came.
pub(super) struct Wander {
    map: &'static [Place],
    before: usize,
    now: usize,
    rng: Rng,
}

impl Wander {
    pub(super) fn new(map: &'static [Place], rng: Rng) -> Self {
        Self { map, before: 0, now: 0, rng }
    }

    fn go_on(&mut self) -> Option<usize> {
        let place = &self.map[self.now];
        if place.interrupts && self.rng.f64() < ONWARD {
            return Some(self.before);
        }
        let all: f64 = place.exits.iter().map(|(_, weight)| weight).sum();
        let mut left = self.rng.f64() * all;
        let chosen = place.exits.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        let (role, _) = chosen.or(place.exits.last())?;
        self.map.iter().position(|place| place.role == *role)
    }
}

impl Iterator for Wander {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        let visit = Visit { role: self.now, seconds: self.map[self.now].seconds };
        let next = self.go_on()?;
        self.before = std::mem::replace(&mut self.now, next);
        Some(visit)
    }
}

/// Any role after any other.
pub(super) struct Uniform {
    roles: usize,
    now: usize,
    rng: Rng,
}

impl Uniform {
    /// Over two roles at least.
    pub(super) fn new(roles: usize, rng: Rng) -> Self {
        Self { roles, now: 0, rng }
    }
}

impl Iterator for Uniform {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        self.now = (self.now + self.rng.usize(1..self.roles)) % self.roles;
        Some(Visit { role: self.now, seconds: UNIFORM_SECONDS })
    }
}

/// Round after round over all roles, so that what was used longest ago comes next, until it
/// turns about.
pub(super) struct Thrash {
    roles: usize,
    now: usize,
    /// Steps until it turns.
    left: usize,
    backwards: bool,
    rng: Rng,
}

impl Thrash {
    /// Over two roles at least.
    pub(super) fn new(roles: usize, rng: Rng) -> Self {
        Self { roles, now: 0, left: roles, backwards: false, rng }
    }
}

impl Iterator for Thrash {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        if self.left == 0 {
            self.left = self.rng.usize(self.roles..3 * self.roles);
            self.backwards = !self.backwards;
        }
        self.left -= 1;
        let step = if self.backwards { self.roles - 1 } else { 1 };
        self.now = (self.now + step) % self.roles;
        Some(Visit { role: self.now, seconds: THRASH_SECONDS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::replay::stories::{CITY, HIGHWAY, VALET};

    #[test]
    fn every_exit_of_a_map_leads_to_another_place_of_it() {
        for map in [CITY, HIGHWAY, VALET] {
            for place in map {
                for (exit, weight) in place.exits {
                    assert!(map.iter().any(|place| place.role == *exit), "{exit}");
                    assert!(*exit != place.role && *weight > 0.0);
                }
            }
        }
    }

    #[test]
    fn after_an_interruption_one_mostly_goes_on_as_before() {
        let visits: Vec<_> = Wander::new(CITY, Rng::with_seed(1)).take(10_000).collect();
        let interrupted = visits.windows(3).filter(|visits| CITY[visits[1].role].interrupts);
        let (mut all, mut onward) = (0, 0);
        for visits in interrupted {
            all += 1;
            onward += u32::from(visits[0].role == visits[2].role);
        }
        assert!(all > 1000 && f64::from(onward) > 0.75 * f64::from(all), "{onward} of {all}");
    }
}
