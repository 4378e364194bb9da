//! The functions of a project that has several: which are meant, what each is called, and which lock is whose.
//!
//! Pure, as the plan is. What a function is made of is `config`'s word and no other than that of a project with one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::{
    Error, Needs, Plan, outputs, read_architecture, read_needs, read_package_names, read_path,
    read_runtime,
};
use crate::config::{Config, Place, Project, Setting, nearest_of};
use crate::http;
use crate::lambda::Architecture;
use crate::oci::reference::Name;
use crate::python::PythonVersion;

/// What stands for a function's name, in small letters, in the names and outputs of images.
pub const PLACEHOLDER: &str = "{function}";

/// The project as each of these functions' own, or of all its functions, in the order of their names; a project
/// without functions is itself one.
///
/// # Errors
/// When there is no such function.
pub fn choose(project: &Project, names: &[String]) -> Result<Vec<Project>, Error> {
    let functions = &project.config.functions;
    if functions.is_empty() {
        return match names.first() {
            Some(name) => Err(Error::NoFunctions { name: name.clone() }),
            None => Ok(vec![project.clone()]),
        };
    }
    let known = || functions.keys().cloned().collect::<Vec<_>>();
    if let Some(name) = names.iter().find(|name| !functions.contains_key(*name)) {
        return Err(Error::NoFunction {
            name: name.clone(),
            known: known(),
            nearest: nearest_of(name, functions.keys().map(String::as_str)).map(str::to_owned),
        });
    }
    let chosen = functions.keys();
    let chosen = chosen.filter(|name| names.is_empty() || names.contains(name));
    Ok(chosen.filter_map(|name| project.function(name)).collect())
}

/// As [`choose`], where there can be but one.
///
/// # Errors
/// When there is no such function, or several and none is named.
pub fn choose_one(project: &Project, name: Option<&String>) -> Result<Project, Error> {
    let names: Vec<_> = name.into_iter().cloned().collect();
    let mut chosen = choose(project, &names)?;
    match chosen.pop() {
        Some(one) if chosen.is_empty() => Ok(one),
        _ => Err(Error::SeveralFunctions {
            known: project.config.functions.keys().cloned().collect(),
        }),
    }
}

/// Whether these plans can all be done: none has what is another's. Outputs are meant from `directory`.
///
/// # Errors
/// When two have a name in common, or an output is where another is.
pub fn check_together(plans: &[Plan], directory: &Path) -> Result<(), Error> {
    let mut owners: BTreeMap<String, &Plan> = BTreeMap::new();
    let function = |plan: &Plan| plan.function.clone().unwrap_or_default();
    for plan in plans {
        let names: BTreeSet<_> = plan.names.iter().map(Name::tagged).collect();
        for name in names {
            if let Some(other) = owners.get(&name) {
                let functions = [function(other), function(plan)];
                return Err(Error::SameName { name, functions });
            }
            owners.insert(name, plan);
        }
    }
    outputs::check(plans, directory)
}

/// A handler that is all functions' is none of them.
///
/// # Errors
/// When a flag or a variable says it, and there are several.
pub fn check_handler(flags: &Config, chosen: &[Project]) -> Result<(), Error> {
    match &flags.handler {
        Some(handler) if chosen.len() > 1 => Err(Error::SharedHandler {
            place: handler.place.clone(),
            functions: chosen.iter().filter_map(name_of).collect(),
        }),
        _ => Ok(()),
    }
}

fn name_of(project: &Project) -> Option<String> {
    let chosen = project.function.as_ref();
    chosen.map(|chosen| chosen.name.clone())
}

/// A text of which a function's name is a part, for the function that the project is taken for.
pub(super) fn filled(text: &str, project: &Project, place: &Place) -> Result<String, Error> {
    match &project.function {
        _ if !text.contains(PLACEHOLDER) => Ok(text.to_owned()),
        Some(chosen) => Ok(fill(text, &chosen.name)),
        None => Err(Error::Placeholder {
            text: http::redact_name(text),
            place: place.clone(),
        }),
    }
}

fn fill(text: &str, name: &str) -> String {
    text.replace(PLACEHOLDER, &name.to_lowercase())
}

/// A list of such texts.
///
/// # Errors
/// When the project is taken for no function, and a text has to have one's name.
pub fn filled_list(
    setting: Option<Setting<Vec<String>>>,
    project: &Project,
) -> Result<Option<Setting<Vec<String>>>, Error> {
    let fill = |Setting { value, place }: Setting<Vec<String>>| {
        let texts = value.iter().map(|text| filled(text, project, &place));
        Ok(Setting {
            value: texts.collect::<Result<_, _>>()?,
            place,
        })
    };
    setting.map(fill).transpose()
}

/// The outputs for the function that the project is taken for.
pub(super) fn outputs(written: &[String], project: &Project) -> Result<Vec<String>, Error> {
    let place = Place::Flag("--output");
    let outputs = written.iter();
    let outputs = outputs.map(|output| filled(output, project, &place));
    outputs.collect()
}

/// The outputs for all functions.
pub(super) fn outputs_of_all(written: &[String], project: &Project) -> Vec<String> {
    let names = project.config.functions.keys();
    let of_one = |name: &String| {
        let outputs = written.iter().map(|output| fill(output, name));
        outputs.collect::<Vec<_>>()
    };
    match &project.function {
        Some(_) => names.flat_map(of_one).collect(),
        None => written.to_vec(),
    }
}

/// The files that say what the functions need: each may tell who the user is to an index.
pub(super) fn needs_of_all(project: &Project) -> Vec<PathBuf> {
    let functions = project.config.functions.values();
    let functions = functions.map(|function| &function.config);
    let shared = project.function.as_ref().map(|chosen| &chosen.shared);
    let all = functions.chain(shared);
    let all = all.filter_map(|config| config.requirements.as_ref());
    all.map(|setting| read_path(setting, &project.root))
        .collect()
}

/// What decides which packages a lock of our making has, and can be a function's own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    /// As written: each file of requirements has locks of its own.
    requirements: Option<String>,
    extras: BTreeSet<String>,
    groups: BTreeSet<String>,
    python: PythonVersion,
    architecture: Architecture,
    /// The function, if what it says of the target or of versions is no part of a name.
    alone: Option<String>,
}

impl Question {
    /// What is asked with these settings.
    fn of(config: &Config, alone: Option<String>) -> Result<Self, Error> {
        let requirements = config.requirements.as_ref();
        Ok(Self {
            requirements: requirements.map(|setting| setting.value.clone()),
            extras: read_package_names(config.extras.as_ref())?,
            groups: read_package_names(config.groups.as_ref())?,
            python: read_runtime(config.python.as_ref())?.python,
            architecture: read_architecture(config.arch.as_ref())?,
            alone,
        })
    }

    /// What differs from `shared`, for a lock's name.
    fn part(&self, shared: &Self) -> Option<String> {
        if self.alone.is_some() {
            return self.alone.clone();
        }
        let mut words: Vec<String> = Vec::new();
        if (&self.extras, &self.groups) != (&shared.extras, &shared.groups) {
            words.extend(self.extras.union(&self.groups).cloned());
            // Nothing, where the project wants something.
            if words.is_empty() {
                words.push("none".to_owned());
            }
        }
        if self.python != shared.python {
            words.push(format!("py{}", self.python.to_string().replace('.', "")));
        }
        if self.architecture != shared.architecture {
            words.push(self.architecture.to_string());
        }
        (!words.is_empty()).then(|| words.join("-"))
    }
}

/// The locks of a project's functions, worked out with the first of several plans. Clones are the same, and for plans
/// of one project with the same flags and variables.
#[derive(Debug, Clone, Default)]
pub struct Locks(Arc<OnceLock<BTreeMap<String, PathBuf>>>);

impl Locks {
    /// The lock of each function that keeps one.
    pub(super) fn of(
        &self,
        project: &Project,
        config: &Config,
    ) -> Result<&BTreeMap<String, PathBuf>, Error> {
        if let Some(locks) = self.0.get() {
            return Ok(locks);
        }
        let locks = locks_of_all(project, config)?;
        Ok(self.0.get_or_init(|| locks))
    }
}

/// The locks of all functions, such that no two make one file anew in turn. What `config` has from elsewhere than a
/// file is the same for all.
fn locks_of_all(project: &Project, config: &Config) -> Result<BTreeMap<String, PathBuf>, Error> {
    let Some(chosen) = &project.function else {
        return Ok(BTreeMap::new());
    };
    let common = of_all_functions(config);
    let (mut locks, mut asked, mut parts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (name, function) in &*project.config.functions {
        let own = &function.config;
        let merged = common.clone().or(own.clone()).or(chosen.shared.clone());
        // Whose settings mean nothing has no lock.
        let Ok(mut needs) = read_needs(project, merged.requirements.as_ref()) else {
            continue;
        };
        // Requirements have neither extras nor groups.
        let has_wanted = matches!(needs, Needs::Project { .. });
        let Some(lock) = needs.lock_mut() else {
            continue;
        };
        locks.insert(name.clone(), lock.clone());
        if is_anothers(project, lock) {
            continue;
        }
        let question_of = |mut config: Config, alone| {
            if !has_wanted {
                (config.extras, config.groups) = (None, None);
            }
            Question::of(&config, alone)
        };
        let is_alone = own.base.is_some()
            || own.glibc.is_some()
            || own.exclude_newer.is_some()
            || own.build.is_some();
        let shared = question_of(common.clone().or(chosen.shared.clone()), None)?;
        if let Ok(question) = question_of(merged, is_alone.then(|| name.to_lowercase())) {
            parts.insert(name, question.part(&shared));
            asked.insert(name, question);
        }
    }
    // Two different questions may come to the same words; functions' names differ, so that this ends.
    while let Some(name) = first_at_odds(&asked, &parts) {
        parts.insert(name, Some(name.to_lowercase()));
    }
    for (name, lock) in &mut locks {
        if let Some(Some(part)) = parts.get(name) {
            *lock = lock.with_file_name(lock_name(&name_of_file(lock), part));
        }
    }
    Ok(locks)
}

/// Whether it is another tool's, and so for all functions.
fn is_anothers(project: &Project, lock: &Path) -> bool {
    let name = name_of_file(lock);
    let is_main = name == "pylock.toml" && project.needs.contains(&"pylock.toml");
    let is_anothers = (is_main && !project.own_lock) || project.named_locks.contains(&name);
    is_anothers && lock.parent() == Some(&project.root)
}

fn name_of_file(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The first function whose part another has that asks something else, and which could have its name for it.
fn first_at_odds<'a>(
    asked: &BTreeMap<&'a String, Question>,
    parts: &BTreeMap<&'a String, Option<String>>,
) -> Option<&'a String> {
    let lock = |name: &String| (&asked[name].requirements, &parts[name]);
    let (mut first, mut at_odds) = (BTreeMap::new(), BTreeSet::new());
    for (name, question) in asked {
        if *first.entry(lock(name)).or_insert(question) != question {
            at_odds.insert(lock(name));
        }
    }
    let could_have = |name: &String| {
        let part = parts[name].as_deref();
        part.is_some_and(|part| part != name.to_lowercase())
    };
    let mut names = asked.keys().copied();
    names.find(|name| at_odds.contains(&lock(name)) && could_have(name))
}

/// Whether no flag or variable has a say in which locks there are.
pub(super) fn has_own_locks(config: &Config) -> bool {
    of_all_functions(config) == Config::default()
}

/// What flags and variables say of it.
fn of_all_functions(config: &Config) -> Config {
    fn elsewhere<T: Clone>(setting: Option<&Setting<T>>) -> Option<Setting<T>> {
        let is_elsewhere = |setting: &&Setting<T>| !matches!(setting.place, Place::File(..));
        setting.filter(is_elsewhere).cloned()
    }
    Config {
        requirements: elsewhere(config.requirements.as_ref()),
        extras: elsewhere(config.extras.as_ref()),
        groups: elsewhere(config.groups.as_ref()),
        python: elsewhere(config.python.as_ref()),
        arch: elsewhere(config.arch.as_ref()),
        ..Config::default()
    }
}

/// What the function needs, with a lock of its own where it asks what others do not; another tool's lock is for all.
pub(super) fn with_own_lock(
    mut needs: Needs,
    project: &Project,
    config: &Config,
    locks: &Locks,
) -> Result<Needs, Error> {
    if let (Some(chosen), Some(lock)) = (&project.function, needs.lock_mut())
        && let Some(own) = locks.of(project, config)?.get(&chosen.name)
    {
        lock.clone_from(own);
    }
    Ok(needs)
}

/// `pylock.PART.toml`, or `pylock.STEM-PART.toml` for other requirements than `requirements.txt`.
fn lock_name(lock: &str, part: &str) -> String {
    let stem = lock.strip_prefix("pylock.");
    match stem.and_then(|rest| rest.strip_suffix(".toml")) {
        Some(stem) => format!("pylock.{stem}-{part}.toml"),
        None => format!("pylock.{part}.toml"),
    }
}

/// The directory whose files are the function.
pub(super) fn source(project: &Project, setting: Option<&Setting>) -> PathBuf {
    match setting {
        Some(source) if !source.value.is_empty() => project.root.join(&source.value),
        _ => project.root.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listed;
    use crate::plan::{Request, make};

    fn project(text: &str) -> Project {
        let config = Config::from_toml(text, "lambimg.toml").unwrap().unwrap();
        Project {
            root: PathBuf::from("/src/Shop"),
            listed: Some(Listed::Standard),
            config,
            ..Project::default()
        }
    }

    fn plans_with(project: &Project, flags: &Config, outputs: &[&str]) -> Result<Vec<Plan>, Error> {
        let chosen = choose(project, &[])?;
        check_handler(flags, &chosen)?;
        let locks = Locks::default();
        let plans = chosen.iter().map(|one| {
            let request = Request {
                locks: locks.clone(),
                config: flags.clone().or(one.config.clone()),
                outputs: outputs.iter().map(|&output| output.to_owned()).collect(),
                ..Request::default()
            };
            make(one, request)
        });
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        check_together(&plans, Path::new("/here"))?;
        Ok(plans)
    }

    fn plans(text: &str) -> Result<Vec<Plan>, Error> {
        plans_with(&project(text), &Config::default(), &[])
    }

    fn told(text: &str) -> String {
        plans(text).unwrap_err().to_string()
    }

    /// The locks of the functions in the order of their names.
    fn locks_with(text: &str, flags: &Config) -> Vec<String> {
        let plans = plans_with(&project(text), flags, &[]).unwrap();
        let locks = plans.into_iter().map(|mut plan| {
            let lock = plan.needs.lock_mut().unwrap();
            let below = lock.strip_prefix("/src/Shop").unwrap();
            below.to_string_lossy().into_owned()
        });
        locks.collect()
    }

    fn locks(text: &str) -> Vec<String> {
        locks_with(text, &Config::default())
    }

    const TWO: &str = "handler = 'app.main'\n[functions.B]\n[functions.a]\n";

    #[test]
    fn each_has_a_name_and_outputs() {
        let plans = plans_with(
            &project(TWO),
            &Config::default(),
            &["zip:dist/{function}.zip", "oci:images:{function}"],
        );
        let plans = plans.unwrap();
        let told: Vec<_> = plans.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(told[0], @r"
        function     B
        project      /src/Shop
        runtime      python3.14
        architecture x86_64
        handler      app.main
        base         public.ecr.aws/lambda/python:3.14
        dependencies /src/Shop/pyproject.toml
        date         1980-01-01T00:00:00Z
        name         shop/b:latest
        output       oci:images:b
        output       zip:dist/b.zip
        ");
        let own = ["dist/b.zip", "dist/a.zip", "images", "images"].map(PathBuf::from);
        for plan in &plans {
            assert_eq!(plan.own_files, own);
        }
        let tagged = plans_with(
            &project(TWO),
            &Config {
                tags: Some(Setting::flag(
                    vec!["r.test/x-{function}:1".to_owned()],
                    "--tag",
                )),
                cache_from: Some(Setting::flag(
                    vec!["r.test/{function}:0".to_owned()],
                    "--cache-from",
                )),
                ..Config::default()
            },
            &[],
        );
        let tagged = tagged.unwrap();
        assert_eq!(tagged[1].names[0].tagged(), "r.test/x-a:1");
        assert_eq!(tagged[1].cache_from[0].to_string(), "r.test/a:0");
    }

    #[test]
    fn what_two_cannot_have_is_refused() {
        insta::assert_snapshot!(told("tags = ['shop', 'x']\nhandler = 'a.b'\n[functions.a]\n[functions.b]\n"), @"the functions `a` and `b` would both be `shop:latest`");
        insta::assert_snapshot!(told("handler = 'a.b'\ntags = ['{function}']\n"), @"`{function}` (`lambimg.toml` line 2) is to have a function's name in it, and the project has no functions of their own");
        insta::assert_snapshot!(told("[functions.a]\nhandler = 'a.b'\n[functions.b]\n"), @"no handler is set");
        let outputs =
            |output: &str| plans_with(&project(TWO), &Config::default(), &[output]).unwrap_err();
        insta::assert_snapshot!(outputs("zip:x.zip"), @"the functions `B` and `a` would both go to `zip:x.zip`");
        insta::assert_snapshot!(outputs("oci-archive:x.tar"), @"the functions `B` and `a` would both go to `oci-archive:x.tar`");
        let handler = Config {
            handler: Some(Setting::flag("a.b".to_owned(), "--handler")),
            ..Config::default()
        };
        insta::assert_snapshot!(plans_with(&project(TWO), &handler, &[]).unwrap_err(), @"`--handler` says the handler of one function, and there are 2: B, a");
        let one = project("[functions.a]\n");
        assert_eq!(plans_with(&one, &handler, &["zip:x.zip"]).unwrap().len(), 1);
    }

    #[test]
    fn functions_are_chosen_by_their_names() {
        let project = project(TWO);
        let named = |name: &str| choose(&project, &[name.to_owned()]);
        assert_eq!(named("a").unwrap().len(), 1);
        insta::assert_snapshot!(named("A").unwrap_err(), @"the project has no function `A`, only B, a");
        assert!(matches!(
            named("b"),
            Err(Error::NoFunction { nearest: Some(name), .. }) if name == "B"
        ));
        insta::assert_snapshot!(choose_one(&project, None).unwrap_err(), @"the project has several functions: B, a");
        let one = choose_one(&project, Some(&"B".to_owned())).unwrap();
        assert_eq!(name_of(&one).as_deref(), Some("B"));
        let none = Project::default();
        insta::assert_snapshot!(choose_one(&none, Some(&"B".to_owned())).unwrap_err(), @"there is no function `B`: the project has no functions of their own");
        assert_eq!(choose_one(&none, None).unwrap(), none);
    }

    #[test]
    fn only_other_questions_have_other_locks() {
        let of = |tables: &str| {
            locks(&format!(
                "python = '3.12'\nhandler = 'a.b'\nextras = ['all']\n{tables}"
            ))
        };
        // Nothing of these changes what is asked.
        assert_eq!(
            of(
                "[functions.a]\npython = '3.12'\nextras = ['All']\nlayers = 1\n[functions.b]\narch = 'x86_64'\n"
            ),
            ["pylock.toml", "pylock.toml"]
        );
        assert_eq!(
            of("[functions.a]\nextras = ['pdf']\narch = 'arm64'\n\
                [functions.b]\ngroups = ['web', 'db']\npython = '3.13'\n\
                [functions.c]\nextras = []\n\
                [functions.D]\nbase = 'r.test/base:1'\n\
                [functions.e]\nrequirements = 'e/requirements.txt'\nextras = []\n\
                [functions.f]\nrequirements = 'dev.in.txt'\nextras = []\nexclude-newer = '2026-01-01'\n"),
            [
                "pylock.d.toml",
                "pylock.pdf-arm64.toml",
                "pylock.all-db-web-py313.toml",
                "pylock.none.toml",
                "e/pylock.toml",
                "pylock.dev-in-f.toml",
            ]
        );
        // The same words for something else.
        assert_eq!(
            of(
                "[functions.a]\nextras = ['x-y']\n[functions.b]\nextras = ['x', 'y']\n\
                [functions.x-y]\nextras = ['x-y']\n[functions.z]\nextras = ['b']\n"
            ),
            [
                "pylock.a.toml",
                "pylock.b.toml",
                "pylock.x-y.toml",
                "pylock.z.toml"
            ]
        );
    }

    #[test]
    fn each_knows_the_locks_of_all() {
        let tables =
            "[functions.a]\nextras = ['x']\n[functions.b]\n[functions.c]\nextras = ['y']\n";
        let all = ["x", "y"].map(|part| format!("/src/Shop/pylock.{part}.toml"));
        let all: BTreeSet<_> = all
            .iter()
            .chain([&"/src/Shop/pylock.toml".to_owned()])
            .map(PathBuf::from)
            .collect();
        for plan in plans(&format!("handler = 'a.b'\n{tables}")).unwrap() {
            assert_eq!(plan.locks, all);
            assert!(plan.has_own_locks);
        }
        let flags = Config {
            python: Some(Setting::flag("3.13".to_owned(), "--python")),
            ..Config::default()
        };
        let of_flags = plans_with(&project("handler = 'a.b'\n"), &flags, &[]);
        assert!(!of_flags.unwrap()[0].has_own_locks);
        let [one] = &plans("handler = 'a.b'\n").unwrap()[..] else {
            panic!("one plan")
        };
        assert_eq!(
            one.locks,
            BTreeSet::from([PathBuf::from("/src/Shop/pylock.toml")])
        );
    }

    #[test]
    fn what_flags_say_is_no_functions_own() {
        let flags = Config {
            python: Some(Setting::flag("3.13".to_owned(), "--python")),
            ..Config::default()
        };
        let text =
            "handler = 'a.b'\npython = '3.12'\n[functions.a]\npython = '3.11'\n[functions.b]\n";
        assert_eq!(locks(text), ["pylock.py311.toml", "pylock.toml"]);
        assert_eq!(locks_with(text, &flags), ["pylock.toml", "pylock.toml"]);
    }

    #[test]
    fn another_tools_lock_is_for_all() {
        let project = Project {
            needs: vec!["pylock.toml", "requirements.txt"],
            ..project("handler = 'a.b'\n[functions.a]\narch = 'arm64'\n")
        };
        let plans = plans_with(&project, &Config::default(), &[]).unwrap();
        let file = Path::new("/src/Shop/requirements.txt").to_owned();
        let lock = Path::new("/src/Shop/pylock.toml").to_owned();
        assert_eq!(plans[0].needs, Needs::Requirements { file, lock });
    }

    #[test]
    fn a_functions_files_may_be_a_directory_of_the_project() {
        let plans = plans(
            "handler = 'a.b'\nsource = 'src'\n[functions.a]\n[functions.b]\nsource = 'b/c'\n[functions.c]\nsource = ''\n",
        );
        let sources: Vec<_> = plans.unwrap().into_iter().map(|plan| plan.source).collect();
        let expected = ["/src/Shop/src", "/src/Shop/b/c", "/src/Shop"].map(PathBuf::from);
        assert_eq!(sources, expected);
    }
}
