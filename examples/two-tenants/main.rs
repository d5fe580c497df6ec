//! Two tenants on one server, side by side: keys and roles, isolation, what is personal masked, a share
//! that is granted and withdrawn, a quota that refuses and is raised, a breaking change that is stopped with
//! the names of those whom it would hurt, a freshness promise that is broken, told and kept again, a key that
//! is erased, and the audit log of it all. It runs the `hydrant` binary as a user would and prints each
//! command; server and folder are gone at the end.
//!
//!     cargo run --release --example two-tenants

#[path = "../nycflights13/server.rs"]
mod server;
mod webhook;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use hydrant::clock::{Clock as _, SystemClock};
use parquet::arrow::ArrowWriter;
use server::Server;
use webhook::Webhook;

const FOLDER: &str = "examples/two-tenants/definitions";
/// Of the card's holder.
const IBAN: &str = "DE02120300000000202051";
/// How long an alert may take: the promise is one of two seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody with an API key.
struct Someone<'a> {
    server: &'a Server,
    name: &'static str,
    key: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match tell().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ntwo-tenants: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn tell() -> Result<()> {
    ensure!(Path::new(FOLDER).is_dir(), "there is no {FOLDER} here: run it from the top of the repository");
    title("A server that asks everybody for a key, and tells a webhook of broken promises");
    let mut webhook = Webhook::start().await?;
    let options = [("HYDRANT_AUTH__ENABLED", "true"), ("HYDRANT_ALERTS__WEBHOOKS", webhook.url.as_str())];
    let server = Server::start_with(&options).await?;
    let told = chapters(&server, &mut webhook).await;
    if told.is_err() {
        server.show_log();
    }
    server.stop().await?;
    told
}

async fn chapters(server: &Server, webhook: &mut Webhook) -> Result<()> {
    title("Whoever runs it makes two tenants, and gives each its first key");
    let first = fs::read_to_string(server.folder().join("data/first-key")).context("the server wrote its first key")?;
    let first = Someone { server, name: "first key", key: first.trim().to_owned() };
    first.succeed(&["whoami"]).await?;
    let platform = first.key_for("platform", &["--role", "platform"]).await?;
    platform.succeed(&["apply", "-f", &format!("{FOLDER}/platform.yaml")]).await?;
    let shop = platform.key_for("shop", &["--tenant", "shop", "--role", "admin"]).await?;
    let bank = platform.key_for("bank", &["--tenant", "bank", "--role", "admin"]).await?;

    title("Both define the same names, and write under the same key");
    for (tenant, amount) in [(&shop, 19.9), (&bank, 2_500.0)] {
        tenant.succeed(&["apply", "-f", &format!("{FOLDER}/{}", tenant.name)]).await?;
        tenant.ingest(amount).await?;
    }

    title("Each reads its own, and nothing of the other's");
    let shop_reads = shop.key_for("shop's recommender", &["--role", "reader"]).await?;
    let read = ["online", "get", "--service", "model", "--key", "card=4711", "-o", "table"];
    ensure!(shop_reads.succeed(&read).await?.contains("19.9"), "the shop reads its own");
    ensure!(bank.succeed(&read).await?.contains("2500"), "the bank reads its own");
    let told = shop_reads.refused(&["apply", "-f", &format!("{FOLDER}/shop")]).await?;
    ensure!(told.contains("owner"), "it says which role is missing");
    shop_reads.refused(&["key", "list"]).await?;

    title("What is personal is masked, unless a key may see it");
    let bank_reads = bank.key_for("bank's fraud model", &["--role", "reader"]).await?;
    ensure!(bank_reads.succeed(&read).await?.contains("MASKED"), "the IBAN is personal");
    let bank_sees = bank.key_for("bank's investigator", &["--role", "reader", "--role", "pii"]).await?;
    ensure!(bank_sees.succeed(&read).await?.contains(IBAN), "this key may see it");

    title("The bank shares its model's features with the shop, and takes them back");
    let read_shared = ["online", "get", "--service", "bank/model", "--key", "card=4711", "-o", "table"];
    let unshared = shop_reads.refused(&read_shared).await?;
    bank.succeed(&["share", "create", "--service", "model", "--to", "shop"]).await?;
    shop.succeed(&["share", "list", "--with-me"]).await?;
    let told = shop_reads.succeed(&read_shared).await?;
    ensure!(told.contains("2500") && told.contains("MASKED"), "the shop reads what is shared, and nothing personal");
    bank.succeed(&["share", "withdraw", "1"]).await?;
    ensure!(shop_reads.refused(&read_shared).await? == unshared, "as if it had never been there");

    title("A quota refuses, and is raised for an hour");
    platform.succeed(&["quota", "set", "shop", "feature_views=1"]).await?;
    let more = definitions_of_a_second_view(server.folder())?;
    ensure!(shop.refused(&["apply", "-f", &more]).await?.contains("feature_views"), "it names the quota");
    platform.succeed(&["quota", "raise", "shop", "feature_views=2", "--for", "1h"]).await?;
    shop.succeed(&["apply", "-f", &more]).await?;
    shop.succeed(&["quota", "get"]).await?;

    title("A change that would break somebody's model is stopped, and says whose");
    let broken = definitions_without_the_feature(server.folder())?;
    let told = bank.refused(&["apply", "-f", &broken]).await?;
    let names_both = told.contains("fraud_model") && told.contains("risk@example.com");
    ensure!(names_both, "it names who would be hurt, and the owner: {told}");
    bank.succeed(&["lineage", "purchases.amount", "--down"]).await?;

    title("Nothing new comes for two seconds: the promise is broken, and somebody is told");
    bank.ingest(12.0).await?;
    let fired = webhook.next_of("firing", ("bank", "last_purchase"), PATIENCE).await?;
    println!("the webhook is told: {fired}");
    bank.succeed(&["sla"]).await?;
    // Rows come again, and keep coming.
    let resolved = webhook.next_of("resolved", ("bank", "last_purchase"), PATIENCE);
    tokio::pin!(resolved);
    let resolved = loop {
        bank.ingest_silently(14.0).await?;
        tokio::select! {
            told = &mut resolved => break told?,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    };
    println!("the webhook is told: {resolved}");

    title("A card's holder wants to be forgotten: erased from everywhere, and proved");
    let erase = ["erase", "--entity", "card", "--key", "card=4711"];
    bank.succeed(&[&erase[..], &["--dry-run"]].concat()).await?;
    bank.succeed(&[&erase[..], &["--yes"]].concat()).await?;
    bank.succeed(&["erase", "get", "1"]).await?;
    ensure!(bank.succeed(&read).await?.contains("NOT_FOUND"), "nothing of it is left");
    ensure!(shop_reads.succeed(&read).await?.contains("19.9"), "the shop's own row is the shop's");

    title("Who did what, and who was refused");
    platform.succeed(&["audit", "list", "--limit", "12"]).await?;
    platform.succeed(&["audit", "verify"]).await?;
    Ok(())
}

impl<'a> Someone<'a> {
    /// Shows and runs a command that has to succeed, and gives what it printed.
    async fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let (succeeded, printed) = self.run(arguments).await?;
        ensure!(succeeded, "`hydrant {}` was refused", arguments.join(" "));
        Ok(printed)
    }

    /// The same of a command that has to be refused.
    async fn refused(&self, arguments: &[&str]) -> Result<String> {
        let (succeeded, printed) = self.run(arguments).await?;
        ensure!(!succeeded, "`hydrant {}` was not refused", arguments.join(" "));
        Ok(printed)
    }

    async fn run(&self, arguments: &[&str]) -> Result<(bool, String)> {
        println!("\n[{}] $ hydrant {}", self.name, arguments.join(" "));
        let (succeeded, printed) = self.server.hydrant_as(&self.key, arguments).await?;
        print!("{printed}");
        Ok((succeeded, printed))
    }

    /// Makes a key for somebody. It is printed once, and not here.
    async fn key_for(&self, name: &'static str, options: &[&str]) -> Result<Someone<'a>> {
        let arguments = [&["key", "create", "--description", name], options].concat();
        println!("\n[{}] $ hydrant {} > key", self.name, arguments.join(" "));
        let (succeeded, printed) = self.server.hydrant_as(&self.key, &arguments).await?;
        let key = printed.split_whitespace().find(|word| word.starts_with("hyd_"));
        ensure!(succeeded && key.is_some(), "no key was made: {printed}");
        Ok(Someone { server: self.server, name, key: key.unwrap_or_default().to_owned() })
    }

    async fn ingest(&self, amount: f64) -> Result<()> {
        let file = purchase(self.server.folder(), amount)?;
        self.succeed(&["ingest", "purchases", &file]).await.map(drop)
    }

    async fn ingest_silently(&self, amount: f64) -> Result<()> {
        let file = purchase(self.server.folder(), amount)?;
        let (succeeded, printed) = self.server.hydrant_as(&self.key, &["ingest", "purchases", &file]).await?;
        ensure!(succeeded, "a purchase was refused: {printed}");
        Ok(())
    }
}

/// A file with one purchase of now.
fn purchase(folder: &Path, amount: f64) -> Result<String> {
    let path = folder.join("purchase.parquet");
    let columns: [(&str, ArrayRef); 4] = [
        ("card", Arc::new(StringArray::from(vec!["4711"]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![SystemClock.now()]))),
        ("amount", Arc::new(Float64Array::from(vec![amount]))),
        ("iban", Arc::new(StringArray::from(vec![IBAN]))),
    ];
    let batch = RecordBatch::try_from_iter(columns)?;
    let mut writer = ArrowWriter::try_new(fs::File::create(&path)?, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(path.display().to_string())
}

fn definitions_of_a_second_view(folder: &Path) -> Result<String> {
    let text = "apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {name: amounts}\nspec:\n  entities: [card]\n  \
                source: purchases\n  features: [{name: amount}]\n";
    write(folder, "more.yaml", text)
}

/// Those of the bank, with another feature in the place of the one that its model reads.
fn definitions_without_the_feature(folder: &Path) -> Result<String> {
    let text = fs::read_to_string(format!("{FOLDER}/bank/purchases.yaml"))?;
    write(
        folder,
        "broken.yaml",
        &text.replace("- {name: amount, description", "- {name: paid, column: amount, description"),
    )
}

fn write(folder: &Path, name: &str, text: &str) -> Result<String> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn title(text: &str) {
    println!("\n== {text}");
}
