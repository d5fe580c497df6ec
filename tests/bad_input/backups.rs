//! Backups that come to nothing: no room on the disk, a server that dies. What is listed is whole.

use std::path::{Path, PathBuf};

use hydrant::error::Code;
use hydrant_storage::backup::verify;
use hydrant_storage::files::LocalFiles;

use crate::scene::Scene;

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.expect("readable").path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_a_backup_is_refused_and_nothing_of_it_stays() {
    let scene = Scene::of(|setup| setup.file_limit(64 << 20)).await;
    scene.apply();
    scene.ingest_airports(900);
    let backups = scene.setup.data().join("backups");
    // Less than a clock file has, which is written for each backup.
    scene.server.set_file_limit(4 << 10);
    let client = scene.client().await;
    let refused = client.create_backup("monday", |_| ()).await.expect_err("there is no room");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "BACKUP_DISK_FULL"), "{refused:?}");
    assert!(refused.hint.is_some());
    assert_eq!(entries(&backups), [] as [PathBuf; 0]);
    assert_eq!(scene.temperature("A007"), ("PRESENT".to_owned(), 7.0.into()));

    scene.server.lift_file_limit();
    let made = client.create_backup("monday", |_| ()).await.expect("there is room");
    assert_eq!(entries(&backups), [PathBuf::from(&made.path)]);
    assert_eq!(verify(&LocalFiles, Path::new(&made.path), &mut |_| true).expect("a manifest").problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_while_it_backs_up_lists_whole_backups_only() {
    let mut scene = Scene::with_definitions("").await;
    scene.ingest_airports(900);
    let backups = scene.setup.data().join("backups");
    let mut cut_short = 0;
    for round in 0..8 {
        let name = format!("round_{round}");
        let (client, asked) = (scene.client().await, name.clone());
        let making = tokio::spawn(async move { client.create_backup(&asked, |_| ()).await });
        // Until the work has begun, or is over.
        let directory = [backups.join(format!(".{name}.making")), backups.join(&name)];
        while !directory.iter().any(|path| path.exists()) {
            tokio::task::yield_now().await;
        }
        let stopped = scene.killed();
        cut_short += usize::from(making.await.expect("no panic").is_err());
        scene = stopped.start().await;
        let listed = scene.client().await.list_backups().await.expect("listed");
        for backup in &listed {
            assert_eq!(backup.problem, "");
            let verified = verify(&LocalFiles, Path::new(&backup.path), &mut |_| true).expect("a manifest");
            assert_eq!(verified.problems, []);
        }
        let mut paths: Vec<PathBuf> = listed.iter().map(|backup| PathBuf::from(&backup.path)).collect();
        let mut found = entries(&backups);
        paths.sort();
        found.sort();
        assert_eq!(found, paths, "something is left that is not listed");
        for backup in listed {
            scene.client().await.delete_backup(&backup.name).await.expect("deleted");
        }
    }
    println!("{cut_short} of 8 backups were cut short");
    assert_eq!(scene.temperature("A007"), ("PRESENT".to_owned(), 7.0.into()));
}
