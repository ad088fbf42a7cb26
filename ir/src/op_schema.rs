//! op_schema
