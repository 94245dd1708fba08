//! What generated traces tell: ways through a day and about town, as tables.

/// A part of a way that is always gone in the same order.
pub(super) struct Leg {
    pub(super) role: &'static str,
    /// How long it lasts, in the middle.
    pub(super) seconds: f64,
    /// How likely it is met on a day.
    pub(super) chance: f64,
}

/// A place of a map: what may follow, and how likely, in any measure.
pub(super) struct Place {
    pub(super) role: &'static str,
    /// How long one is there, in the middle.
    pub(super) seconds: f64,
    /// Whether one is likely to go on as before it, as after a light.
    pub(super) interrupts: bool,
    pub(super) exits: &'static [(&'static str, f64)],
}

const fn leg(role: &'static str, seconds: f64) -> Leg {
    Leg { role, seconds, chance: 1.0 }
}

const fn maybe(role: &'static str, seconds: f64, chance: f64) -> Leg {
    Leg { role, seconds, chance }
}

const fn place(role: &'static str, seconds: f64, exits: &'static [(&'static str, f64)]) -> Place {
    Place { role, seconds, interrupts: false, exits }
}

const fn interruption(
    role: &'static str,
    seconds: f64,
    exits: &'static [(&'static str, f64)],
) -> Place {
    Place { role, seconds, interrupts: true, exits }
}

/// A day: the way to work by daylight, and the way back in the dark.
pub(super) const COMMUTE: &[Leg] = &[
    leg("garage", 12.0),
    leg("residential", 45.0),
    maybe("school_zone", 25.0, 0.6),
    leg("city", 60.0),
    maybe("traffic_light", 20.0, 0.8),
    leg("city", 40.0),
    maybe("traffic_light", 20.0, 0.5),
    leg("ramp", 12.0),
    leg("highway", 240.0),
    leg("tunnel", 40.0),
    leg("highway", 180.0),
    maybe("construction", 50.0, 0.25),
    leg("toll", 15.0),
    leg("bridge", 45.0),
    leg("ramp", 12.0),
    leg("city", 90.0),
    maybe("traffic_light", 20.0, 0.7),
    leg("city", 30.0),
    leg("parking", 40.0),
    leg("city", 90.0),
    maybe("traffic_light", 20.0, 0.7),
    leg("ramp", 12.0),
    leg("bridge", 45.0),
    leg("toll", 15.0),
    leg("highway_night", 200.0),
    maybe("construction", 50.0, 0.25),
    leg("tunnel", 40.0),
    leg("highway_night", 220.0),
    leg("ramp", 12.0),
    leg("city_night", 80.0),
    maybe("traffic_light", 15.0, 0.5),
    leg("city_night", 30.0),
    leg("residential", 45.0),
];

pub(super) const CITY: &[Place] = &[
    place(
        "main_road",
        20.0,
        &[
            ("traffic_light", 5.0),
            ("crossing", 2.0),
            ("roundabout", 1.5),
            ("bus_lane", 1.5),
            ("tram_street", 1.0),
            ("underpass", 1.0),
            ("residential", 1.0),
        ],
    ),
    interruption("traffic_light", 12.0, &[("main_road", 2.0), ("residential", 1.0)]),
    interruption("crossing", 4.0, &[("main_road", 1.0), ("residential", 1.0)]),
    interruption("roundabout", 6.0, &[("main_road", 2.0), ("residential", 1.0)]),
    place("bus_lane", 10.0, &[("main_road", 3.0), ("traffic_light", 1.0)]),
    place("tram_street", 15.0, &[("traffic_light", 2.0), ("crossing", 2.0), ("main_road", 1.0)]),
    interruption("underpass", 8.0, &[("main_road", 3.0), ("roundabout", 1.0)]),
    place(
        "residential",
        18.0,
        &[
            ("school_zone", 1.0),
            ("crossing", 2.0),
            ("narrow_street", 2.0),
            ("main_road", 1.5),
            ("parking_search", 1.0),
        ],
    ),
    place("school_zone", 16.0, &[("residential", 3.0), ("crossing", 2.0)]),
    interruption("narrow_street", 12.0, &[("residential", 3.0), ("construction", 1.0)]),
    interruption("construction", 14.0, &[("residential", 1.0), ("main_road", 1.0)]),
    place("parking_search", 30.0, &[("parking", 3.0), ("residential", 1.0)]),
    place("parking", 40.0, &[("residential", 2.0), ("main_road", 1.0)]),
];

pub(super) const HIGHWAY: &[Place] = &[
    place(
        "highway",
        90.0,
        &[
            ("overtaking", 6.0),
            ("tunnel", 1.0),
            ("construction", 1.0),
            ("traffic_jam", 0.7),
            ("ramp", 0.7),
        ],
    ),
    interruption("overtaking", 15.0, &[("highway", 1.0)]),
    interruption("tunnel", 40.0, &[("highway", 1.0)]),
    interruption("construction", 75.0, &[("highway", 2.0), ("traffic_jam", 1.0)]),
    place("traffic_jam", 150.0, &[("highway", 2.0), ("construction", 1.0)]),
    place("ramp", 15.0, &[("highway", 1.0), ("rest_area", 1.0)]),
    place("rest_area", 300.0, &[("ramp", 1.0)]),
];

pub(super) const VALET: &[Place] = &[
    place("drop_off", 8.0, &[("aisle", 1.0)]),
    place(
        "aisle",
        5.0,
        &[
            ("corner", 3.0),
            ("pedestrian", 1.5),
            ("obstacle", 1.0),
            ("garage_ramp", 1.0),
            ("reversing", 1.5),
        ],
    ),
    interruption("corner", 2.5, &[("aisle", 3.0), ("garage_ramp", 1.0)]),
    interruption("pedestrian", 2.0, &[("aisle", 2.0), ("reversing", 1.0)]),
    interruption("obstacle", 3.0, &[("aisle", 2.0), ("reversing", 1.0)]),
    place("garage_ramp", 6.0, &[("aisle", 3.0), ("drop_off", 1.0)]),
    place("reversing", 4.0, &[("parked", 2.0), ("pedestrian", 1.0), ("aisle", 1.0)]),
    place("parked", 10.0, &[("aisle", 3.0), ("drop_off", 1.0)]),
];
