//! What is said to a model that should not be said: a table of phrases, and the matcher that finds them.
//!
//! A phrase is a row of elements. `a|b_c|d*` is one of: the word a, the words b c, a word that begins with d. `~3` is up to
//! three words. `$name` stands for a list of alternatives. In front of a phrase:
//!
//! - `^`: it must begin a command (nobody else is its subject);
//! - `!`: it carries its own negation, so a negation in front of it does not take it back;
//! - `@`: the sentence must speak to its reader;
//! - `?`: only where asking is meant: in a parameter's name or description, or as a command.
//!
//! Text without spaces (Chinese, Japanese) is matched character by character.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::text::{Gap, Text};
use super::{Rule, Severity};
use Rule::{Authority, Consent, Context, Misplaced, Override, Secrecy, Sensitive, Steering};
use Severity::{High, Medium};

/// Lists of alternatives.
const LISTS: &[(&str, &str)] = &[
    ("not", "do_not|don't|never|must_not|mustn't|should_not|shouldn't|cannot|no"),
    ("human", "user|user's|users|human|person|customer|operator|anyone|anybody|people"),
    ("it", "it|this|that|step|copy|call|action|file|upload|tool|anything|note|rule|instruction*|what|them"),
    (
        "instr",
        "instruction*|prompt|prompts|directive*|guideline*|rule|rules|polic*|restriction*|request*|constraint*|order|orders",
    ),
    (
        "earlier",
        "previous*|prior|earlier|above|preceding|existing|original|initial|system|user|user's|users|your|all|any|other|these|those",
    ),
    (
        "take",
        "read|open|cat|copy|send|include|add|pass|paste|put|append|upload|attach|fetch|get|print|show|dump|forward|collect|give|provide|supply|fill|insert|return|encode|reveal|write|find|grab|extract|retrieve|gather|load|use|disclose|share|transmit|post|submit|save|store|repeat|tell|enter|place|report|record",
    ),
    (
        "credential",
        "password*|passphrase*|credential*|token|tokens|cookie|cookies|secret|secrets|api_key*|apikey*|access_key*|one_time_code*|pin_code*",
    ),
    (
        "chat",
        "conversation*|chat|chats|dialogue|dialog|transcript*|message_history|chat_history|messages|session_history|prompt_history",
    ),
    ("all", "all|full|complete|entire|whole|every|everything|verbatim|unabridged|exact"),
];

/// Rule, severity, what to say of it, phrases one a line.
const TABLE: &[(Rule, Severity, &str, &str)] = &[
    (Override, High, "tells the model to set aside its instructions", "
        ^ignore|disregard|forget|override|bypass|overrule ~2 $earlier ~3 $instr
        ^ignore|disregard|forget ~1 what|everything ~4 user|told|said|above|before
        ^ignore|disregard ~1 the_user|your_user|the_system_prompt
        ignoriere|ignorieren|ignorier|vergiss|missachte ~3 anweisung*|vorgaben|anordnung*|regeln
        ^ignora|ignorad|ignore|olvida|olvide|omite ~3 instrucci*|indicacion*|órdenes|reglas
        ^ignore|ignorez|oublie|oubliez ~3 instructions|consignes|règles
        ^ignore|ignora|esqueça|dimentica ~3 instruções|istruzioni|regras|regole
        игнорир*|забудь|забудьте ~3 инструкц*|указани*|правил*
        忽略|无视|忘记 ~10 指令|指示|规则|提示
        指示|命令|ルール|プロンプト ~6 無視
    "),
    (Override, High, "tells the model to obey a text", "
        ^follow|obey|do|execute|carry_out|comply_with|act_on ~1 everything|whatever|anything|all_that ~6 say*|contain*|tell*|instruct*|state*|ask*
        ^apply|decode ~5 and_obey|and_follow|and_execute
        ^obey ~6 text|field|message|page|instruction*|result|output
        has|have|having|take|takes ~1 priority|precedence|authority ~2 $earlier ~3 $instr
        ^treat ~4 as ~2 instruction*|system_message*|orders
        instructions ~2 override|supersede|replace|outrank ~4 user|system|instruction*|those|yours
        !follow|obey ~8 without_asking|without_question
    "),
    (Override, Medium, "sets a text above another", "
        override|overrides|supersede|supersedes ~2 earlier|previous|prior|your|user's ~2 $instr
    "),
    (Secrecy, High, "tells the model to keep something from its user", "
        !^$not tell|inform|alert|notify ~1 $human
        !^$not mention|disclose|reveal|admit|say|explain|comment_on ~1 $it ~6 $human
        !^$not mention|disclose|reveal|comment_on ~1 $it
        !^$not list|show|display|report ~1 $it ~6 $human
        !$not list|show|display|report ~1 it|this ~3 when ~1 you ~2 asked
        !without|not ~1 $human ~1 knowing|noticing|knowledge|awareness
        @!without telling|informing|mentioning|alerting|revealing ~2 $human|it|this
        !so|so_that|that ~2 $human ~1 cannot|can't|can_not|doesn't|does_not|won't|will_not|never ~2 see|notice|know|learn|find|realise|realize
        !$human ~1 must|should|may|need ~1 not|never ~2 see|notice|know|learn|find|realise|realize|aware
        ^keep|stay|remain ~3 quiet|secret|silent|hidden|to_yourself ~3 about|from|it|this
        ^keep|do ~2 it|this|that ~2 secret|hidden|quiet|silent|to_yourself
        ^say|tell|mention|reveal nothing ~1 of|about|to
        stay*|remain*|keep|kept between_us|among_us|our_secret
        !as_if|as_though ~6 not|never|nothing ~2 happen*|exist*|taken_place
        ^hide|conceal ~4 from ~3 $human
        sag|sage|erzähle|erzähl|verrate|informiere ~4 benutzer*|nutzer*|anwender* ~2 nichts|nicht
        ohne ~3 benutzer*|nutzer*|anwender* ~5 sagen|erwähnen|informieren|wissen|merken
        !no ~1 digas|informes|menciones|reveles ~4 usuario
        !sin ~1 decir*|informar*|mencionar* ~3 usuario
        !ne ~1 dis|dites|mentionne|mentionnez|révèle|révélez|préviens ~4 utilisateur
        !não ~1 diga|conte|mencione|informe ~4 usuário|utilizador
        !non ~1 dire|menzionare|rivelare ~4 utente
        !не ~1 говори*|сообщай*|упомина*|рассказывай* ~3 пользовател*
        !不要|别|勿|不得|不能让 ~4 告诉|告知|提及|透露|通知|让 ~4 用户|使用者|他人
        !ユーザー ~3 知らせな|伝えな|言わな|教えな
        !사용자에게 ~2 말하지|알리지
    "),
    (Consent, High, "tells the model that its user need not be asked", "
        !^do_not|don't|never ~1 ask|request|require|seek|wait_for ~3 confirmation|permission|approval|consent|user|again
        @!without ~2 asking|confirmation|permission|approval|consent ~3 user|again|anyone|first
        @!without confirmation|approval|permission
        !no_need_to|need_not|needn't|don't_need_to|do_not_need_to ~1 ask|confirm|request
        user|owner|customer|administrator has|have ~1 approved|agreed|consented|authorised|authorized|confirmed ~5 advance|already|all|every|everything|any
        user|owner|customer|administrator has|have already approved|agreed|consented|authorised|authorized|confirmed
        pre_approved|preapproved|pre_authorised|pre_authorized|already_approved ~4 user|confirm*|you|ask*
        accept|approve|confirm|answer|agree|consent ~3 on_behalf_of|for the_user|your_user|them
        ^always accept|approve|confirm|agree ~5 user|sampling|elicitation|request|it
        you ~2 now authorised|authorized|allowed|permitted|free ~6 without
        ^fill|enter|type ~4 yourself ~4 from|without
    "),
    (Authority, High, "claims that rules no longer hold for the model", "
        restrictions|safety*|safeguards|guidelines|rules|policies|policy ~1 were|was|are|is|have_been|has_been ~1 lifted|suspended|disabled|updated ~6 you
        you_are_now|you_are_no_longer ~2 in|bound|restricted|authorised|authorized|unrestricted|allowed|permitted
        ^enter|enable|activate ~2 developer_mode|debug_mode|god_mode|admin_mode|jailbreak*
    "),
    (Steering, High, "puts itself before, or in the place of, other servers' tools", "
        before ~2 any|all|every|each ~1 other_tool*|tool* ~5 any|every|all|other|whatever ~1 server*|conversation*|session*
        !$not use|call|invoke|trust ~3 tool|tools|server|servers ~2 of|from ~1 other|another|any_other|different ~1 server*|provider*
        !$not use|call|invoke|trust ~1 other|another|any_other ~2 tool|tools|server|servers
        ^ignore|disregard|avoid ~2 other|another ~2 tool|tools|server|servers
        must|always ~2 call|use|invoke|run ~2 before ~1 you ~2 answer|reply|respond|do ~1 anything|any|every
        instead_of ~2 other|another|any_other ~2 tool|tools|server|servers
    "),
    (Steering, Medium, "wants to be used in every conversation", "
        must|always ~3 call|use|invoke|run|read ~3 in|at|for ~2 every|each|any ~1 conversation|chat|message|turn|answer|reply|response
        ^read|call|use|invoke|run ~3 in|at|for ~2 every|each|any ~1 conversation|chat|message|turn|answer|reply|response
    "),
    (Context, High, "asks for the conversation", "
        ?$all ~3 $chat ~6 so_far|verbatim|user|you|your|including|word_for_word|unabridged|session|to_date|system|this
        ?$chat ~3 so_far|between_you|verbatim|word_for_word
        ?last|recent|previous|earlier|latest ~2 messages|turns|prompts ~4 user|you|your|between
        ^$take ~6 chat_history|message_history|conversation_history|whole_conversation|entire_conversation|full_conversation|whole_chat|this_conversation|our_conversation
        ^$take ~6 last|recent|previous|earlier|latest ~1 messages|turns|prompts ~2 of|from|by ~1 user
        ?what_the_model|your ~1 thought*|reasoning|chain_of_thought ~3 verbatim|full|complete|so_far
    "),
    (Context, High, "asks for the model's instructions", "
        ?your ~1 system_prompt|system_message|initial_prompt|initial_instruction*|developer_message|hidden_instruction*
        ^$take ~3 system_prompt|system_message ~4 verbatim|word_for_word|here|full|complete|of_this
    "),
    (Context, High, "asks for the environment of the caller", "
        ?$all ~1 environment_variable*|env_var* ~8 you|your|client|host|including|caller
        ^$take ~3 environment_variable*|env_var* ~4 of|from ~1 you|your|the_user|the_client|the_host|this_machine
    "),
    (Context, High, "asks for what the model knows of its user", "
        ?everything|all|anything|whatever|what ~2 you ~2 know|learned|learnt|remember|found|seen|noticed ~4 user|session|conversation|account|project*
        !^answer|reply|respond|fill|give|provide|send|include ~4 all|everything|anything ~1 you ~1 know|learned|learnt|remember
    "),
    (Context, High, "asks for the results of other tools", "
        ?result*|output*|response* ~2 of|from ~1 every|all|each|any|other|previous ~2 tool|tools ~6 you|session|conversation|server|servers|called|used
        ?arguments|name ~3 tool ~3 you_are|you're ~1 about_to
        ^$take ~3 result*|output* ~2 of|from ~2 other|previous|all|every|earlier ~2 tool|tools
    "),
    (Sensitive, High, "asks for keys or passwords", "
        ^$take ~6 private_key*|ssh_key*|seed_phrase|recovery_phrase|mnemonic|master_password|browser_cookie*|keychain|browsing_history
        ?content|contents|text ~4 private_key*|ssh_key*|keychain|password_file|seed_phrase
        ^$take ~6 $credential ~6 appear*|conversation|earlier|previous|saved|you_find|you_found|you_will_find|you_have|memory|this_chat|of_the_user|user's|environment
        ^$take ~2 user's|users ~1 $credential
        ^fill|enter|answer|give|send|use ~6 earlier_messages|previous_messages ~2 or|and ~2 $credential
        asks_for ~3 $credential ~8 fill|give|enter|answer|provide ~3 yourself
    "),
    (Sensitive, High, "reaches into the user's own files", "
        ^$take|call|list|scan ~6 user's_home|home_directory|home_folder|user's_files|user's_documents
        lies|lese|öffne|kopiere|schicke|sende ~6 passwort*|kennwort|kennwörter|privaten_schlüssel|zugangsdaten
        ^lee|abre|copia|envía|manda ~6 contraseña*|clave_privada|credenciales
        envía|envíe|manda|enviar ~6 toda ~1 la ~1 conversación
        lis|lisez|ouvre|ouvrez|copie|copiez|envoie|envoyez ~6 mot_de_passe|mots_de_passe|clé_privée|identifiants
        прочитай*|открой*|отправь*|скопируй* ~5 парол*|ключ*|учётн*
        读取|发送|上传|复制|提供|打开 ~8 私钥|密码|密钥|凭证|聊天记录|对话记录
        パスワード|秘密鍵|会話 ~6 読み取って|送って|入れて|含めて|渡して
    "),
    (Misplaced, Medium, "asks for personal data of the user", "
        ^$take ~3 home_address|phone_number|date_of_birth|passport*|social_security*|credit_card* ~5 of_the_user|of_your_user
    "),
];

/// One element of a phrase.
enum Element {
    Any(Vec<Vec<Part>>),
    Gap(usize),
}

enum Part {
    Word(String),
    Stem(String),
}

impl Part {
    fn fits(&self, word: &str) -> bool {
        match self {
            Self::Word(expected) => expected == word,
            Self::Stem(stem) => word.starts_with(stem.as_str()),
        }
    }
}

/// A phrase, ready to match.
pub(super) struct Phrase {
    pub rule: Rule,
    pub severity: Severity,
    pub message: &'static str,
    /// Must begin a command.
    pub command: bool,
    /// Carries its own negation.
    pub negative: bool,
    /// Its sentence must speak to the reader.
    pub addressed: bool,
    /// Counts only where asking is meant.
    pub asking: bool,
    elements: Vec<Element>,
}

/// The table, by first word; phrases that begin with a stem are in `stems`.
pub(super) struct Table {
    phrases: Vec<Phrase>,
    words: HashMap<String, Vec<usize>>,
    stems: Vec<(String, usize)>,
}

pub(super) static PHRASES: LazyLock<Table> = LazyLock::new(Table::build);

/// A phrase that was found, with its words.
pub(super) struct Match<'a> {
    pub phrase: &'a Phrase,
    pub words: std::ops::Range<usize>,
}

impl Table {
    fn build() -> Self {
        let mut table = Self { phrases: Vec::new(), words: HashMap::new(), stems: Vec::new() };
        for (rule, severity, message, lines) in TABLE {
            for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
                table.add(*rule, *severity, message, line);
            }
        }
        table
    }

    fn add(&mut self, rule: Rule, severity: Severity, message: &'static str, line: &str) {
        let flags = line.chars().take_while(|c| "^!@?".contains(*c)).collect::<String>();
        let elements: Vec<Element> = line[flags.len()..].split_whitespace().map(element).collect();
        let index = self.phrases.len();
        if let Some(Element::Any(alternatives)) = elements.first() {
            for alternative in alternatives {
                match alternative.first() {
                    Some(Part::Word(word)) => {
                        let known = self.words.entry(word.clone()).or_default();
                        if known.last() != Some(&index) {
                            known.push(index);
                        }
                    }
                    Some(Part::Stem(stem)) => self.stems.push((stem.clone(), index)),
                    None => {}
                }
            }
        }
        self.phrases.push(Phrase {
            rule,
            severity,
            message,
            command: flags.contains('^'),
            negative: flags.contains('!'),
            addressed: flags.contains('@'),
            asking: flags.contains('?'),
            elements,
        });
    }

    /// Every phrase of the table in a text, at every word where one begins.
    pub(super) fn find(&self, text: &Text, mut found: impl FnMut(Match<'_>)) {
        for at in 0..text.words.len() {
            let word = text.word(at);
            let exact = self.words.get(word).into_iter().flatten().copied();
            let stems = self.stems.iter().filter(|(stem, _)| word.starts_with(stem.as_str())).map(|(_, index)| *index);
            for index in exact.chain(stems) {
                let phrase = &self.phrases[index];
                if let Some(end) = matches(&phrase.elements, text, at, at) {
                    found(Match { phrase, words: at..end });
                }
            }
        }
    }
}

fn element(source: &str) -> Element {
    if let Some(count) = source.strip_prefix('~') {
        return Element::Gap(count.parse().unwrap_or(0));
    }
    let mut alternatives = Vec::new();
    let mut add = |choice: &str| {
        alternatives.push(parts(choice, true));
        // `chat_history` is written as one word too.
        if choice.contains('_') {
            alternatives.push(parts(choice, false));
        }
    };
    for choice in source.split('|') {
        match choice.strip_prefix('$').and_then(|name| LISTS.iter().find(|(list, _)| *list == name)) {
            Some((_, list)) => list.split('|').for_each(&mut add),
            None => add(choice),
        }
    }
    Element::Any(alternatives)
}

/// The words of an alternative, cut as the text is cut.
fn parts(choice: &str, apart: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    for piece in choice.split(|c| apart && c == '_') {
        let (piece, stem) = piece.strip_suffix('*').map_or((piece, false), |stem| (stem, true));
        let text = Text::new(piece);
        for i in 0..text.words.len() {
            let word = text.word(i).to_owned();
            parts.push(if stem && i + 1 == text.words.len() { Part::Stem(word) } else { Part::Word(word) });
        }
    }
    parts
}

/// Where the elements end if they match from a word on. Gaps are short and few, so this is linear in the text.
fn matches(elements: &[Element], text: &Text, first: usize, at: usize) -> Option<usize> {
    let Some((element, rest)) = elements.split_first() else { return Some(at) };
    match element {
        Element::Gap(most) => (0..=*most).find_map(|skip| matches(rest, text, first, at + skip)),
        Element::Any(alternatives) => alternatives.iter().find_map(|parts| {
            let fits = parts.iter().enumerate().all(|(i, part)| {
                let here = at + i;
                // A phrase does not go over the end of a sentence.
                let joined = here == first || text.words.get(here).is_some_and(|w| w.gap < Gap::Sentence);
                joined && here < text.words.len() && part.fits(text.word(here))
            });
            if fits { matches(rest, text, first, at + parts.len()) } else { None }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phrase_can_be_read_and_names_known_lists() {
        assert!(PHRASES.phrases.len() > 90);
        for phrase in &PHRASES.phrases {
            let Some(Element::Any(first)) = phrase.elements.first() else {
                panic!("{} begins with a gap", phrase.message)
            };
            assert!(first.iter().all(|parts| !parts.is_empty()));
        }
        for (_, _, _, lines) in TABLE {
            for name in lines
                .split(|c: char| c.is_whitespace() || c == '|')
                .filter_map(|w| w.trim_start_matches(['^', '!', '@', '?']).strip_prefix('$'))
            {
                assert!(LISTS.iter().any(|(list, _)| *list == name), "{name}");
            }
        }
    }
}
