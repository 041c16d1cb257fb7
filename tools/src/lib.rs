//! Programs beside the extension.
