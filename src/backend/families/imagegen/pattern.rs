//! The built-in provider: no network. It draws an SVG that depends only on prompt, seed and size. Pure. The prompt's text
//! is never part of the image.

use super::job::{Batch, GeneratedImage};
use super::picture::{Format, Picture};

/// Draws the images of a batch. `seed` is used if the batch has none.
pub(super) fn generate(batch: &Batch, seed: u32) -> Vec<GeneratedImage> {
    let first = batch.seed.unwrap_or(i64::from(seed));
    let images = (0..i64::from(batch.size)).map(|n| {
        let seed = first.saturating_add(n);
        let bytes = draw(&batch.prompt, seed, batch.width, batch.height).into_bytes();
        let picture = Picture { bytes, format: Format::Svg, size: Some((batch.width, batch.height)) };
        GeneratedImage { picture, seed: Some(seed) }
    });
    images.collect()
}

/// Draws an SVG. The size is in pixels.
fn draw(prompt: &str, seed: i64, width: u32, height: u32) -> String {
    let mut dice = Dice::new(prompt, seed);
    let hue = dice.below(360);
    // Two neighbouring hues and one from the opposite side of the colour wheel look good together.
    let hues = [hue, (hue + 25 + dice.below(30)) % 360, (hue + 170 + dice.below(40)) % 360];
    let (w, h) = (u64::from(width), u64::from(height));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<defs>\n"
    );
    for (name, hue, light) in [("sky", hues[0], 18), ("glow", hues[2], 66)] {
        let next = (hue + 50) % 360;
        svg += &format!(
            "<linearGradient id=\"{name}\" gradientTransform=\"rotate({})\">\
             <stop offset=\"0\" stop-color=\"hsl({hue},65%,{light}%)\"/>\
             <stop offset=\"1\" stop-color=\"hsl({next},70%,{}%)\"/></linearGradient>\n",
            dice.below(90),
            light + 22,
        );
    }
    svg += "</defs>\n<rect width=\"100%\" height=\"100%\" fill=\"url(#sky)\"/>\n";
    let side = w.min(h).max(1);
    for _ in 0..40 {
        let light = 75 + dice.below(20);
        svg += &format!(
            "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"hsl({},60%,{light}%)\" opacity=\"0.{}\"/>\n",
            dice.below(w),
            dice.below(h),
            1 + dice.below(side / 160 + 1),
            hues[1],
            3 + dice.below(6),
        );
    }
    let radius = side / 7 + dice.below(side / 6 + 1);
    let (x, y) = (w / 5 + dice.below(w * 3 / 5 + 1), h / 6 + dice.below(h / 3 + 1));
    for ring in (1..=4).rev() {
        svg += &format!(
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"{}\" fill=\"url(#glow)\" opacity=\"{}\"/>\n",
            radius * (6 + ring) / 7,
            if ring == 1 { "0.95" } else { "0.16" },
        );
    }
    for layer in 0..6 {
        svg += &hill(&mut dice, layer, hues, w, h);
    }
    svg + "</svg>\n"
}

/// Draws a row of hills from side to side. Higher layers are nearer: lower in the image and darker.
fn hill(dice: &mut Dice, layer: u64, hues: [u64; 3], w: u64, h: u64) -> String {
    const STEPS: u64 = 6;
    let base = h * (9 + layer * 2) / 20;
    let mut level = || base.saturating_sub(h / 14) + dice.below(h / 7 + 1);
    let mut path = format!("M0 {h}V{}", level());
    for step in 0..STEPS {
        let (from, to) = (w * step / STEPS, w * (step + 1) / STEPS);
        let third = (to - from) / 3;
        path += &format!("C{} {} {} {} {to} {}", from + third, level(), to - third, level(), level());
    }
    let hue = hues[usize::from(layer % 2 == 1)];
    let light = 46_u64.saturating_sub(layer * 7);
    format!("<path d=\"{path}V{h}Z\" fill=\"hsl({hue},{}%,{light}%)\" opacity=\"0.88\"/>\n", 40 + layer * 5)
}

/// A random generator seeded with a text and a number (splitmix64, seeded by FNV-1a).
struct Dice(u64);

impl Dice {
    fn new(prompt: &str, seed: i64) -> Dice {
        let bytes = prompt.bytes().chain(seed.to_le_bytes());
        Dice(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::sample::batch;
    use super::*;

    #[test]
    fn the_seeds_of_a_batch_are_consecutive() {
        let entry_batch = batch();
        let seeds: Vec<_> = generate(&entry_batch, 9).iter().map(|image| image.seed).collect();
        assert_eq!(seeds, [Some(41), Some(42)]);
        let seeds: Vec<_> =
            generate(&Batch { seed: None, ..entry_batch }, 9).iter().map(|image| image.seed).collect();
        assert_eq!(seeds, [Some(9), Some(10)]);
    }

    #[test]
    fn an_image_depends_only_on_prompt_seed_and_size() {
        let first = draw("a lake", 7, 640, 480);
        assert_eq!(first, draw("a lake", 7, 640, 480));
        for other in [draw("a lake", 8, 640, 480), draw("a sea", 7, 640, 480), draw("a lake", 7, 480, 640)] {
            assert_ne!(first, other);
        }
        assert!(first.contains("width=\"640\" height=\"480\""));
    }

    #[test]
    fn the_text_of_the_prompt_is_not_in_the_image() {
        let svg = draw("</svg><script>alert(1)</script>&\u{1}", i64::MIN, 64, 4096);
        assert!(!svg.contains("script") && !svg.contains('&') && !svg.contains('\u{1}'));
        assert_eq!((svg.matches("<svg").count(), svg.matches("</svg>").count()), (1, 1));
    }

    #[test]
    fn any_size_can_be_drawn() {
        for (width, height) in [(0, 0), (1, 1), (64, 64), (4096, 64), (u32::MAX, u32::MAX)] {
            assert!(draw("", 0, width, height).ends_with("</svg>\n"));
        }
    }
}
