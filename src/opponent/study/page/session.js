/* A session from consent to debriefing: what follows what. */

import * as api from "./api.js";
import { Page, Trial, address, make, paragraphs } from "./screens.js";

const { initJsPsych, jsPsychPreload } = window;
const stage = () => document.getElementById("stage");
const bar = document.getElementById("bar");
const leave = document.getElementById("leave");
const text = (...words) => make("p", { className: "text" }, ...words);
const em = (kind, word) => make("em", { className: kind }, word);

/** Whatever jsPsych is doing is over: what it still draws goes nowhere. */
function instead(...children) {
  bar.hidden = true;
  if (leave.open) leave.close();
  const fresh = make("main", { id: "stage" });
  fresh.append(make("section", { className: "page" }, ...children));
  stage().replaceWith(fresh);
  const first = fresh.querySelector("button");
  if (first) first.focus();
}

const ENDS = {
  complete: ["Thank you!", "You have answered everything, and all your answers are stored."],
  no_consent: ["You do not take part", "That is fine. You have answered no questions, and nothing more is stored."],
  screened_out: ["This study does not work here",
    "Sorry: it needs a larger window, or its images could not be loaded. You cannot take part with this device."],
  withdrawn: ["You have stopped", "Your answers are deleted. Thank you for the time that you gave."],
};

function showEnd({ state, redirect, code, debriefing }, fromProlific) {
  const [title, said] = ENDS[state];
  const children = [make("h1", {}, title), text(said)];
  if (debriefing) children.push(make("h2", {}, "About this study"), ...paragraphs(debriefing));
  const buttons = make("div", { className: "buttons" });
  if (redirect) {
    const back = new URL(redirect).hostname.endsWith("prolific.com") ? "Return to Prolific" : "Finish";
    buttons.append(make("button", { type: "button", id: "return", onclick: () => window.location.assign(redirect) }, back));
    children.push(buttons);
    children.push(make("p", { className: "hint" }, `If the button does not work, enter this code: ${code}`));
  } else if (fromProlific) {
    if (code) children.push(text(`Your code is ${code}.`));
    children.push(text("You may close this window now."));
  } else {
    const again = () => {
      api.forget();
      window.location.reload();
    };
    buttons.append(make("button", { type: "button", className: "quiet", onclick: again }, "Start for another person"));
    children.push(text("You may close this window now."), buttons);
  }
  instead(...children);
}

const FAILURES = {
  already_started: ["You have already started",
    "This study can be done once, and it was begun in another browser or window. Please go on there. If you cannot, send a message to the people who run the study."],
  token: ["This session was opened elsewhere", "You can go on in the window in which you opened it last."],
  field: ["This link is not complete", "Please open the study again from where you found it."],
  ended: ["This session has ended", "It was ended in another window. Load this page again to see how to go on."],
  conflict: ["This was answered elsewhere", "Another window has answered this question. Load this page again to go on from there."],
};

function showFailure(error) {
  const [title, said] = FAILURES[error.reason] || ["Something went wrong",
    "What you have answered so far is stored. Load this page again to go on; if that does not help, send a message to the people who run the study."];
  const buttons = make("div", { className: "buttons" },
    make("button", { type: "button", onclick: () => window.location.reload() }, "Load again"));
  const more = FAILURES[error.reason] ? [] : [make("p", { className: "hint" }, String(error.message))];
  instead(make("h1", {}, title), text(said), ...more, buttons);
}

function showTrouble(trouble) {
  const box = document.getElementById("network");
  box.hidden = trouble === null;
  if (trouble === null) return box.replaceChildren();
  const lost = trouble.saving ? "Your last answer is not stored yet: " : "";
  return box.replaceChildren(
    `${lost}${lost ? "the" : "The"} connection is interrupted. Trying again in ${trouble.seconds} s; please keep this page open. `,
    make("button", { type: "button", className: "quiet", onclick: trouble.now }, "Try now"),
  );
}

/** Do what may fail; a failure is shown, and then nothing follows. */
async function guarded(act) {
  try {
    return await act();
  } catch (error) {
    showFailure(error);
    return new Promise(() => {});
  }
}

const page = (title, content, buttons = ["Continue"], more = {}) => ({
  type: Page, title, content: () => content, buttons, ...more,
});

const INSTRUCTIONS = [
  ["What this is about", () => [
    text("Computers that recognise images are made of many small ", make("strong", {}, "detectors"),
      ". Each responds to something that it finds in an image: perhaps a colour, a pattern, or a kind of object."),
    text("Some images ", em("mei", "excite"), " a detector: they make it respond strongly. Other images ",
      em("mii", "inhibit"), " it: they silence it, as if they held the opposite of what it looks for."),
    text("We would like to know how well people can tell which images do what."),
  ]],
  ["What you do", () => [
    text("You see six examples on the left. All of them excite the same detector strongly. Find out what they have in common."),
    text("Then choose from nine other images on the right:"),
    make("ol", {},
      make("li", {}, "first the image that you think ", em("mei", "excites"), " the detector most,"),
      make("li", {}, "then the image that you think ", em("mii", "inhibits"), " it most. It must be another one.")),
    text("Afterwards you are shown which images were right. The second question can be hard; when you are unsure, choose what seems most likely."),
    text("Click an image, or press its number from 1 to 9. You may change your mind until you press Confirm or Enter."),
    text("We measure how long you take. There is no time limit, but please work without breaks within a part."),
  ]],
];

/** The window is large enough, or becomes so, or the participant cannot take part. */
function windowCheck([width, height]) {
  const fits = () => window.innerWidth >= width && window.innerHeight >= height;
  const size = make("strong", { id: "size" });
  const watch = (press) => {
    const look = () => {
      size.textContent = `${window.innerWidth} × ${window.innerHeight}`;
      if (fits()) press(-1);
    };
    window.addEventListener("resize", look);
    look();
    return () => window.removeEventListener("resize", look);
  };
  const content = [
    text(`The images need a window of at least ${width} × ${height} pixels. Yours has `, size, "."),
    text("Please make it larger, or zoom out (Ctrl and minus, or ⌘ and minus). This page goes on by itself when it is large enough."),
  ];
  return {
    timeline: [page("Please make this window larger", content, ["I cannot make it larger"], {
      ready: false,
      watch,
      on_finish: (data) => (data.pressed === 0 ? guarded(async () => {
        showEnd(await api.screenOut("window"), fromProlific);
        return new Promise(() => {});
      }) : undefined),
    })],
    conditional_function: () => !fits(),
  };
}

/** Load pictures before they are needed; where that fails, try again. */
function loading(trials) {
  const images = [...new Set(trials.flatMap((x) => [...x.examples, ...x.choices]))].map(address);
  let loaded = false;
  const failed = page("Some images could not be loaded",
    [text("Please check your connection, then try again.")],
    ["Try again", "They still do not load"], {
      on_finish: (data) => (data.pressed === 1 ? guarded(async () => {
        showEnd(await api.screenOut("images"), fromProlific);
        return new Promise(() => {});
      }) : undefined),
    });
  return {
    timeline: [
      {
        type: jsPsychPreload,
        images,
        show_progress_bar: false,
        message: `<section class="page"><p class="text" role="status">Loading the images…</p><progress id="loading" max="${images.length}" value="0"></progress></section>`,
        continue_after_error: true,
        on_success: () => {
          const shown = document.getElementById("loading");
          if (shown) shown.value += 1;
        },
        on_finish: (data) => {
          loaded = data.success === true;
        },
      },
      { timeline: [failed], conditional_function: () => !loaded },
    ],
    loop_function: () => !loaded,
  };
}

let fromProlific = false;

function where(words, done, total) {
  document.getElementById("where").textContent = words;
  document.getElementById("progress").max = Math.max(total, 1);
  document.getElementById("progress").value = done;
}

function timeline(shown) {
  const { blocks, answers, feedback } = shown;
  const first = {};
  for (const each of answers) if (each.question === "mei") first[each.trial] = each.choice;
  const isDone = (trial) => trial.trial in feedback;
  const parts = blocks.filter((block) => !block.practice);
  const total = parts.reduce((sum, block) => sum + block.trials.length, 0);
  let done = parts.flatMap((block) => block.trials).filter(isDone).length;
  const begun = parts.some((block) => block.trials.some((x) => x.trial in first));
  const nodes = [];

  const one = (trial, words, practice) => {
    /* Only the first try of the practice is stored; those that follow are for the participant. */
    let known = feedback[trial.trial] || null;
    let given = {};
    const send = async (body) => {
      if (!known) {
        const reply = await guarded(() => api.answer(body));
        known = reply.feedback;
        return reply;
      }
      given = body.question === "mei" ? { mei: body.choice } : { ...given, mii: body.choice };
      const tell = (name) => ({ ...known[name], choice: given[name], correct: given[name] === known[name].right_choice });
      return body.question === "mei" ? {} : { feedback: { mei: tell("mei"), mii: tell("mii") } };
    };
    const node = {
      type: Trial,
      trial,
      practice,
      send,
      first: () => (known ? null : first[trial.trial] || null),
      on_start: () => where(words, done, total),
      on_finish: (data) => {
        if (!practice) done += 1;
        delete first[trial.trial];
        where(words, done, total);
        return data;
      },
    };
    return practice ? { timeline: [node], loop_function: (data) => !data.values()[0].right } : node;
  };

  /* With consent there is something to withdraw from. */
  const consented = () => {
    bar.hidden = false;
    where("", done, total);
  };
  if (shown.consent.given) {
    consented();
  } else {
    nodes.push(page(shown.title, paragraphs(shown.consent.text), ["I agree, and want to take part", "I do not want to take part"], {
      ready: false,
      on_finish: (data) => guarded(async () => {
        const reply = await api.consent(shown.consent.version, data.pressed === 0);
        if (reply.state !== "started") {
          showEnd(reply, fromProlific);
          await new Promise(() => {});
        }
        consented();
      }),
    }));
  }
  nodes.push(windowCheck(shown.min_window));
  if (answers.length) {
    const many = done ? `You have finished ${done} of ${total} sets of images; all are stored.` : "You were in the practice.";
    nodes.push(page("Welcome back", [text(many), text("You go on where you stopped.")]));
  } else {
    for (const [title, content] of INSTRUCTIONS) nodes.push(page(title, content()));
  }
  const practice = blocks.filter((block) => block.practice).flatMap((block) => block.trials);
  const open = begun ? [] : practice.filter((x) => !isDone(x) || !(feedback[x.trial].mei.correct && feedback[x.trial].mii.correct));
  if (open.length) {
    nodes.push(loading(open));
    if (!answers.length) {
      nodes.push(page("Practice first", [text("You begin with ", open.length === 1 ? "one set of images" : `${open.length} sets of images`,
        " to practise with. You go on when both answers are right.")], ["Start the practice"]));
    }
    open.forEach((trial, i) => nodes.push(one(trial, `Practice ${i + 1} of ${open.length}`, true)));
  }
  let before = 0;
  parts.forEach((block, i) => {
    const left = block.trials.filter((x) => !isDone(x));
    before += block.trials.length;
    if (!left.length) return;
    const part = `Part ${i + 1} of ${parts.length}`;
    nodes.push(loading(left));
    const sets = `${block.trials.length} sets of images`;
    if (left.length === block.trials.length && !(left[0].trial in first)) {
      const content = i === 0
        ? [text("The practice is over. Now the study itself begins."), text(`It has ${parts.length} ${parts.length === 1 ? "part" : "parts"} of ${sets} each. Each set is about another detector.`)]
        : [text(`${before - block.trials.length} of ${total} sets of images are done, and all your answers are stored.`),
          ...(shown.breaks ? [text("Take a break if you like; nothing is timed until you continue.")] : []),
          text("The detectors of the next part are of another kind.")];
      if (i === 0 || shown.breaks) nodes.push({ ...page(i === 0 ? part : `Part ${i} of ${parts.length} is done`, content, [`Start part ${i + 1}`]), on_start: () => where(part, done, total) });
    }
    left.forEach((trial) => {
      const number = block.trials.indexOf(trial) + 1;
      nodes.push(one(trial, `${part} · set ${number} of ${block.trials.length}`, false));
    });
  });
  return nodes;
}

function offerToLeave() {
  document.getElementById("withdraw").onclick = () => leave.showModal();
  document.getElementById("leave-no").onclick = () => leave.close();
  document.getElementById("leave-yes").onclick = () => guarded(async () => {
    document.getElementById("leave-yes").disabled = true;
    showEnd(await api.withdraw(), fromProlific);
  });
}

async function main() {
  api.onTrouble(showTrouble);
  const shown = await api.session();
  document.title = shown.title;
  fromProlific = shown.from_prolific;
  if (shown.end) {
    showEnd(shown.end, fromProlific);
    return;
  }
  offerToLeave();
  const jsPsych = initJsPsych({ display_element: stage(), use_webaudio: false });
  await jsPsych.run(timeline(shown));
  showEnd(await api.finish(), fromProlific);
}

main().catch(showFailure);
