//! Why a resource was refused.

/// One resource that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Name of the resource, as the control plane calls it.
    pub name: String,
    /// The field at fault; may be empty.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Rejection {
    /// A rejection of a field of a resource that is still to be named by [`Rejection::of`].
    #[must_use]
    pub fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { name: String::new(), field: field.to_owned(), reason: reason.into() }
    }

    /// Name the resource.
    #[must_use]
    pub fn of(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "{}: {}", self.name, self.reason),
            field => write!(f, "{}: {field}: {}", self.name, self.reason),
        }
    }
}
