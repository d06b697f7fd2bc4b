//! The store on Postgres, through sqlx.
