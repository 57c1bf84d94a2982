//! Colours, where they are wanted.

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// It went well.
    Good,
    /// It waits, or deserves a look.
    Attention,
    /// It went wrong.
    Bad,
    /// Beside the point.
    Dim,
    /// A heading.
    Bold,
}

/// Paints, or leaves as it is.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// With or without colours.
    #[must_use]
    pub const fn new(colours: bool) -> Self {
        Self(colours)
    }

    /// The text in a colour.
    #[must_use]
    pub fn text(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => 32,
            Colour::Attention => 33,
            Colour::Bad => 31,
            Colour::Dim => 2,
            Colour::Bold => 1,
        };
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
