//! The levels that codes stand for: Lloyd-Max on the density of a coordinate of a random unit vector.
//!
//! The bundle's encoder stops early on a coarse grid, so its levels are not those of the true optimum. To find the same
//! numbers, the grid, the order of sums and the rule for stopping are kept.

#![forbid(unsafe_code)]

use super::pack::Bits;

const GRID_POINTS: usize = 10_000;
const MAX_ITERATIONS: usize = 200;
/// The tolerances of `numpy.allclose` as the encoder calls it.
const ABSOLUTE: f64 = 1e-10;
const RELATIVE: f64 = 1e-5;
/// A cell with less mass than this divides by this.
const LEAST_MASS: f64 = 1e-10;

/// The `2^bits` levels for rows of `n` weights, ascending.
pub fn codebook(n: usize, bits: Bits) -> Vec<f32> {
    let levels = 1usize << bits.get();
    let grid = linspace(-1.0, 1.0, GRID_POINTS);
    let density = density(&grid, n);
    let moments: Vec<f64> = grid.iter().zip(&density).map(|(x, f)| x * f).collect();

    let support = 3.0 / (n.max(1) as f64).sqrt();
    let mut centroids = linspace(-support, support, levels);
    for _ in 0..MAX_ITERATIONS {
        let moved = step(&grid, &density, &moments, &centroids);
        let mut pairs = centroids.iter().zip(&moved);
        if pairs.all(|(old, new)| (old - new).abs() <= ABSOLUTE + RELATIVE * new.abs()) {
            break;
        }
        centroids = moved;
    }
    centroids.sort_by(f64::total_cmp);
    centroids.into_iter().map(|level| level as f32).collect()
}

/// One step of Lloyd-Max: every level moves to the mean of its cell.
fn step(grid: &[f64], density: &[f64], moments: &[f64], centroids: &[f64]) -> Vec<f64> {
    let last = centroids.len() - 1;
    let middle = |i: usize| (centroids[i] + centroids[i + 1]) / 2.0;
    let first_from = |bound: f64| grid.partition_point(|&x| x < bound);
    let cell = |i: usize| {
        let start = if i == 0 { 0 } else { first_from(middle(i - 1)) };
        let end = if i == last {
            grid.len()
        } else {
            first_from(middle(i))
        };
        start..end
    };
    let moved = |(i, &old): (usize, &f64)| {
        let cell = cell(i);
        if cell.len() <= 1 {
            return old;
        }
        let mass = trapezoid(&density[cell.clone()], &grid[cell.clone()]);
        trapezoid(&moments[cell.clone()], &grid[cell]) / mass.max(LEAST_MASS)
    };
    centroids.iter().enumerate().map(moved).collect()
}

/// The density of one coordinate on the unit sphere of `n` dimensions, `(1 - x^2)^((n-3)/2)`, with integral 1.
fn density(grid: &[f64], n: usize) -> Vec<f64> {
    let exponent = if n <= 2 { 0.0 } else { (n as f64 - 3.0) / 2.0 };
    let at = |x: &f64| (exponent * (1.0 - x * x).max(1e-30).ln()).exp();
    // The constant in front, a ratio of gamma functions, cancels here.
    let mut density: Vec<f64> = grid.iter().map(at).collect();
    let total = trapezoid(&density, grid);
    density.iter_mut().for_each(|f| *f /= total);
    density
}

/// `count` equally spaced numbers, rounded as numpy rounds them.
fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / (count - 1) as f64;
    let mut points: Vec<f64> = (0..count).map(|i| i as f64 * step + start).collect();
    points[count - 1] = stop;
    points
}

fn trapezoid(y: &[f64], x: &[f64]) -> f64 {
    let area = |(x, y): (&[f64], &[f64])| (x[1] - x[0]) * (y[1] + y[0]) / 2.0;
    let areas: Vec<f64> = x.windows(2).zip(y.windows(2)).map(area).collect();
    pairwise_sum(&areas)
}

/// A sum in numpy's order: eight running sums up to 128 numbers, halves added above.
fn pairwise_sum(numbers: &[f64]) -> f64 {
    const LANES: usize = 8;
    const LEAF: usize = 128;
    if numbers.len() < LANES {
        return numbers.iter().sum();
    }
    if numbers.len() > LEAF {
        let half = numbers.len() / 2;
        let (low, high) = numbers.split_at(half - half % LANES);
        return pairwise_sum(low) + pairwise_sum(high);
    }
    let (rows, rest) = numbers.as_chunks::<LANES>();
    let mut sums = rows[0];
    for row in &rows[1..] {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let total = ((a + b) + (c + d)) + ((e + f) + (g + h));
    rest.iter().fold(total, |sum, x| sum + x)
}
