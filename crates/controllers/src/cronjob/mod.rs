//! CronJob → Jobs: one at each moment of a schedule.

mod time;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_exists, is_not_found, run_loop};
use yunfan_objects::cron::Schedule;

use self::time::Clock;
use crate::Context;
use crate::ahead::Ahead;
use crate::children::{Children, controller_among};
use crate::claim::controller_reference;
use crate::job::spec::finished;
use crate::pod_writer::{only, reason};
use crate::pods::{controller_of, sooner};
use crate::status::{now, status_patch};

/// Annotation of a Job with the moment that it is for.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// Runs the loop.
pub async fn run(context: Context) {
    let crons = context.informers.of::<CronJob>();
    let jobs = context.informers.of::<Job>();
    tokio::join!(crons.synced(), jobs.synced());
    let queue = Queue::new();
    queue.feed(&crons, |cron| [ObjectKey::of(cron)]);
    queue.feed(&jobs, |job| {
        let owner = controller_among::<CronJob>(&job.metadata)?;
        Some(ObjectKey::new(job.namespace().unwrap_or_default(), owner.name.clone()))
    });
    let work = Arc::new(Loop {
        written_crons: Ahead::new(crons.clone()),
        written_jobs: Ahead::new(jobs.clone()),
        of_jobs: Children::new(&jobs),
        context,
        crons,
    });
    run_loop("cronjob", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    crons: Informer<CronJob>,
    of_jobs: Children<Job>,
    written_crons: Ahead<CronJob>,
    written_jobs: Ahead<Job>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(cron) = self.crons.get_key(key) else {
            self.written_crons.forget(key);
            self.written_jobs.forget(key);
            return Ok(None);
        };
        if let Some(wait) = sooner(self.written_crons.behind(key), self.written_jobs.behind(key)) {
            return Ok(Some(wait));
        }
        let jobs = self.of_jobs.of(cron.metadata.uid.as_deref().unwrap_or_default());
        let mut status = cron.status.clone().unwrap_or_default();
        let again = self.pass(key, &cron, &jobs, &mut status).await;
        // What happened is written also when a step failed.
        self.write_status(key, &cron, &mut status).await?;
        again
    }

    async fn pass(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> kube::Result<Option<Duration>> {
        self.look_at_jobs(key, cron, jobs, status).await?;
        if cron.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let again = self.start_due(key, cron, status).await;
        self.trim_history(key, cron, jobs).await.and(again)
    }

    /// Notes which Jobs ended and which are missing. Where one can't be asked about, it counts as active until it can.
    async fn look_at_jobs(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> kube::Result<()> {
        let active = status.active.take().unwrap_or_default();
        let is_active = |job: &Job| active.iter().any(|known| known.uid == job.metadata.uid);
        for job in jobs {
            match finished(job) {
                None if !is_active(job) => {
                    let message =
                        format!("Saw a job that the controller did not create or forgot: {}", job.name_any());
                    self.tell(cron, Severity::Warning, "UnexpectedJob", message);
                }
                Some(condition) if is_active(job) => {
                    let (name, kind) = (job.name_any(), &condition.type_);
                    let message = format!("Saw completed job: {name}, condition: {kind}");
                    self.tell(cron, Severity::Normal, "SawCompletedJob", message);
                }
                _ => {}
            }
        }
        let ends =
            jobs.iter().filter(|job| finished(job).is_some_and(|condition| condition.type_ == "Complete"));
        let ended = ends.filter_map(|job| job.status.as_ref()?.completion_time.clone());
        status.last_successful_time = ended.chain(status.last_successful_time.take()).max();
        let (mut still, mut problem) = (Vec::new(), None);
        for known in active {
            match jobs.iter().find(|job| job.metadata.uid == known.uid) {
                Some(job) if finished(job).is_none() => still.push(known),
                Some(_) => {}
                None => {
                    // The informer may lag behind a Job that was made just now: ask.
                    let name = known.name.clone().unwrap_or_default();
                    let there = self.context.writer.get::<Job>(key.namespace(), &name).await;
                    match there.map(|there| there.metadata.uid == known.uid) {
                        Ok(true) => still.push(known),
                        Err(error) if !is_not_found(&error) => {
                            still.push(known);
                            problem = Some(error);
                        }
                        _ => {
                            let message = format!("Active job went missing: {name}");
                            self.tell(cron, Severity::Normal, "MissingJob", message);
                        }
                    }
                }
            }
        }
        status.active = Some(still);
        problem.map_or(Ok(()), Err)
    }

    /// Starts the Job that is due; tells when to look for the next.
    async fn start_due(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: &mut CronJobStatus,
    ) -> kube::Result<Option<Duration>> {
        let zone = match cron.spec.time_zone.as_deref() {
            // The host's, as in Kubernetes; UTC where it has none.
            None => TimeZone::system(),
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(error) => {
                    let message = format!("invalid timeZone: {name:?}: {error}");
                    self.tell(cron, Severity::Warning, "UnknownTimeZone", message);
                    return Ok(None);
                }
            },
        };
        if cron.spec.suspend.unwrap_or(false) {
            return Ok(None);
        }
        let schedule = match Schedule::parse(&cron.spec.schedule) {
            Ok(schedule) => schedule,
            Err(why) => {
                let message = format!("unparseable schedule: {:?} : {why}", cron.spec.schedule);
                self.tell(cron, Severity::Warning, "UnparseableSchedule", message);
                return Ok(None);
            }
        };
        let clock = Clock { cron, schedule: &schedule, zone: &zone, now: now().0 };
        if clock.next(clock.now).is_none() {
            // Such as the 31st of February. The words are those that Kubernetes' controller finds for it.
            let why = "time difference between two schedules is less than 1 second";
            let message = format!("invalid schedule: {} : {why}", cron.spec.schedule);
            self.tell(cron, Severity::Warning, "InvalidSchedule", message);
            return Ok(None);
        }
        if let Some(at) = self.due(&clock, status) {
            self.start(key, &clock, at, status).await?;
        }
        Ok(clock.wait())
    }

    /// The moment for which a Job is to be started now.
    fn due(&self, clock: &Clock<'_>, status: &CronJobStatus) -> Option<Timestamp> {
        let cron = clock.cron;
        let due = clock.due()?;
        if due.missed_many {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.tell(cron, Severity::Warning, "TooManyMissedTimes", message.to_owned());
        }
        if clock.is_past_deadline(due.at) {
            let at = due.at.strftime("%a, %d %b %Y %H:%M:%S +0000");
            self.tell(
                cron,
                Severity::Warning,
                "MissSchedule",
                format!("Missed scheduled time to start a job: {at}"),
            );
            return None;
        }
        let active = status.active.as_deref().unwrap_or_default();
        let name = job_name(cron, due.at);
        if active.iter().any(|job| job.name.as_ref() == Some(&name)) {
            return None;
        }
        if cron.spec.concurrency_policy.as_deref() == Some("Forbid") && !active.is_empty() {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.tell(cron, Severity::Normal, "JobAlreadyActive", message.to_owned());
            return None;
        }
        Some(due.at)
    }

    async fn start(
        &self,
        key: &ObjectKey,
        clock: &Clock<'_>,
        at: Timestamp,
        status: &mut CronJobStatus,
    ) -> kube::Result<()> {
        let cron = clock.cron;
        if cron.spec.concurrency_policy.as_deref() == Some("Replace") {
            while let Some(job) = status.active.as_ref().and_then(|active| active.last()).cloned() {
                let name = job.name.unwrap_or_default();
                self.delete(key, cron, &name, job.uid).await?;
                status.active.iter_mut().for_each(|active| drop(active.pop()));
            }
        }
        let job = job_of(cron, at, clock.zone);
        let made = match self.context.writer.create(&job).await {
            Ok(made) => {
                self.tell(
                    cron,
                    Severity::Normal,
                    "SuccessfulCreate",
                    format!("Created job {}", made.name_any()),
                );
                made
            }
            // Made before, and the status was not written; or it is someone else's.
            Err(error) if is_exists(&error) => {
                let there: Job = self.context.writer.get(key.namespace(), &job.name_any()).await?;
                let owner = controller_of(&there.metadata).map(|owner| owner.uid.clone());
                if owner != cron.metadata.uid {
                    return Ok(());
                }
                if finished(&there).is_some() {
                    status.last_schedule_time = Some(Time(at));
                    return Ok(());
                }
                there
            }
            Err(error) => {
                let message = format!("Error creating job: {}", reason(&error));
                self.tell(cron, Severity::Warning, "FailedCreate", message);
                return Err(error);
            }
        };
        self.written_jobs.wrote(key, &made);
        status.active.get_or_insert_default().push(ObjectReference {
            api_version: Some("batch/v1".to_owned()),
            kind: Some("Job".to_owned()),
            ..made.object_ref(&())
        });
        status.last_schedule_time = Some(Time(at));
        Ok(())
    }

    async fn trim_history(&self, key: &ObjectKey, cron: &CronJob, jobs: &[Arc<Job>]) -> kube::Result<()> {
        let limits = [
            ("Complete", cron.spec.successful_jobs_history_limit),
            ("Failed", cron.spec.failed_jobs_history_limit),
        ];
        for (kind, limit) in limits {
            let Some(limit) = limit else { continue };
            for job in surplus(jobs, kind, usize::try_from(limit).unwrap_or(0)) {
                self.delete(key, cron, &job.name_any(), job.uid()).await?;
            }
        }
        Ok(())
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        name: &str,
        uid: Option<String>,
    ) -> kube::Result<()> {
        let params = DeleteParams { preconditions: only(uid).preconditions, ..DeleteParams::background() };
        match self.context.writer.delete_told::<Job>(key.namespace(), name, &params).await {
            Ok(revision) => {
                self.written_jobs.wrote_at(key, revision);
                self.tell(cron, Severity::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
                Ok(())
            }
            Err(error) => {
                self.tell(
                    cron,
                    Severity::Warning,
                    "FailedDelete",
                    format!("Deleted job: {}", reason(&error)),
                );
                Err(error)
            }
        }
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: &mut CronJobStatus,
    ) -> kube::Result<()> {
        status.active = status.active.take().filter(|active| !active.is_empty());
        let before = cron.status.clone().unwrap_or_default();
        let Some(patch) = status_patch(&cron.metadata, &before, status) else { return Ok(()) };
        match self.context.writer.merge_status::<CronJob>(key.namespace(), &key.name, &patch).await {
            Ok(written) => self.written_crons.wrote(key, &written),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn tell(&self, cron: &CronJob, severity: Severity, reason: &'static str, message: String) {
        self.context.recorder.event(cron, severity, reason, message);
    }
}

/// The finished Jobs of a kind that are too many, the oldest first.
fn surplus<'a>(jobs: &'a [Arc<Job>], kind: &str, limit: usize) -> Vec<&'a Arc<Job>> {
    let ended = |job: &&Arc<Job>| finished(job).is_some_and(|condition| condition.type_ == kind);
    let stays = |job: &&Arc<Job>| job.metadata.deletion_timestamp.is_none();
    let mut ended: Vec<_> = jobs.iter().filter(stays).filter(ended).collect();
    let started = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.clone());
    // Those that never started come last.
    ended.sort_by_key(|job| (started(job).is_none(), started(job), job.name_any()));
    ended.truncate(ended.len().saturating_sub(limit));
    ended
}

/// The name of the Job for a moment: the same however often it is tried.
fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.name_any(), at.as_second() / 60)
}

fn job_of(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let format = if cron.spec.time_zone.is_none() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    let mut moment = at.to_zoned(zone.clone()).strftime(format).to_string();
    if let Some(utc) = moment.strip_suffix("+00:00") {
        moment = format!("{utc}Z");
    }
    annotations.insert(SCHEDULED_AT.to_owned(), moment);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron, at)),
            namespace: cron.namespace(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_is_named_and_marked_by_its_moment() {
        let mut cron: CronJob = serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"schedule": "* * * * *", "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}}}))
        .unwrap();
        let at: Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        let job = job_of(&cron, at, &TimeZone::UTC);
        assert_eq!(job.name_any(), "c-29453765");
        assert_eq!(job.annotations()[SCHEDULED_AT], "2026-01-01T00:05:00Z");
        assert_eq!((job.labels()["a"].as_str(), job.owner_references()[0].controller), ("b", Some(true)));
        for (name, moment) in
            [("Asia/Tokyo", "2026-01-01T09:05:00+09:00"), ("Etc/UTC", "2026-01-01T00:05:00Z")]
        {
            cron.spec.time_zone = Some(name.to_owned());
            let job = job_of(&cron, at, &TimeZone::get(name).unwrap());
            assert_eq!(job.annotations()[SCHEDULED_AT], moment);
        }
    }

    #[test]
    fn the_oldest_of_too_many_go() {
        let job = |name: &str, kind: &str, start: Option<&str>| -> Arc<Job> {
            let condition = json!({"type": kind, "status": "True"});
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name},
                    "status": {"startTime": start, "conditions": [condition]}}))
                .unwrap(),
            )
        };
        let jobs = [
            job("late", "Complete", Some("2026-01-01T00:03:00Z")),
            job("never", "Complete", None),
            job("early", "Complete", Some("2026-01-01T00:01:00Z")),
            job("failed", "Failed", Some("2026-01-01T00:02:00Z")),
            job("runs", "Suspended", Some("2026-01-01T00:00:00Z")),
        ];
        let names = |kind: &str, limit| {
            surplus(&jobs, kind, limit).iter().map(|job| job.name_any()).collect::<Vec<_>>()
        };
        assert_eq!(names("Complete", 1), ["early", "late"]);
        assert_eq!(names("Complete", 3), [""; 0]);
        assert_eq!(names("Failed", 0), ["failed"]);
    }
}
