/* What is drawn: pages of text and trials, as jsPsych plugins. Text is never taken for HTML. */

const { ParameterType } = window.jsPsychModule;

/** An element with properties and children; strings become text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A long text in paragraphs, as its empty lines say. */
export const paragraphs = (text) =>
  text.split(/\n\s*\n/).map((each) => make("p", { className: "text" }, each.trim()));

/* A key that is held down presses one button, not those of the pages that follow. */
document.addEventListener("keydown", (event) => {
  if (event.repeat && (event.key === "Enter" || event.key === " ")) event.preventDefault();
});

const dialogIsOpen = () => document.querySelector("dialog[open]") !== null;

/** A page of text with buttons; the data say which was pressed. */
export class Page {
  static info = {
    name: "opponent-page",
    version: "1.0.0",
    parameters: {
      title: { type: ParameterType.STRING, default: "" },
      /* A function that gives the page's elements. */
      content: { type: ParameterType.FUNCTION, default: () => [] },
      buttons: { type: ParameterType.STRING, array: true, default: ["Continue"] },
      /* Whether Enter presses the first button at once. */
      ready: { type: ParameterType.BOOL, default: true },
      /* Called once it is shown with what presses a button; returns what stops it. */
      watch: { type: ParameterType.FUNCTION, default: () => () => {} },
    },
    data: { pressed: { type: ParameterType.INT } },
  };

  trial(display, trial) {
    return new Promise((resolve) => {
      let stop = () => {};
      let over = false;
      const press = (pressed) => {
        if (over) return;
        over = true;
        stop();
        display.replaceChildren();
        resolve({ pressed });
      };
      const buttons = trial.buttons.map((text, i) =>
        make("button", { type: "button", className: i ? "quiet" : "", onclick: () => press(i) }, text),
      );
      const heading = make("h1", { tabIndex: -1 }, trial.title);
      const content = trial.content();
      display.replaceChildren(
        make("section", { className: "page" }, heading, ...content,
          make("div", { className: "buttons" }, ...buttons)),
      );
      window.scrollTo(0, 0);
      (trial.ready ? buttons[0] : heading).focus({ preventScroll: true });
      stop = trial.watch(press);
      if (over) stop();
    });
  }
}

/** Both questions of a trial, and then which answers were right. */
export class Trial {
  static info = {
    name: "opponent-trial",
    version: "1.0.0",
    parameters: {
      trial: { type: ParameterType.OBJECT },
      /* The first answer where it is stored already, for after a reload. */
      first: { type: ParameterType.STRING, default: null },
      /* Sends an answer, and returns what the server says once it is stored. */
      send: { type: ParameterType.FUNCTION },
      practice: { type: ParameterType.BOOL, default: false },
    },
    data: { right: { type: ParameterType.BOOL } },
  };

  async trial(display, parameters) {
    const { trial, send, practice } = parameters;
    const grid = new Grid(display, trial, practice);
    await grid.ready();
    let first = parameters.first;
    if (!first) {
      const answer = await grid.ask("mei");
      first = answer.choice;
      await grid.saving(send({ trial: trial.trial, question: "mei", ...answer }));
    }
    grid.markFirst(first);
    const second = await grid.ask("mii");
    const reply = await grid.saving(send({ trial: trial.trial, question: "mii", ...second }));
    const right = reply.feedback.mei.correct && reply.feedback.mii.correct;
    await grid.tell(reply.feedback, reply.stored, practice && !right);
    display.replaceChildren();
    return { right };
  }
}

const QUESTIONS = {
  mei: ["Question 1 of 2", "Which image ", "excites", " the detector most?",
    "It responds strongly to all the examples. Which of the nine does it respond to most strongly?"],
  mii: ["Question 2 of 2", "Which image ", "inhibits", " the detector most?",
    "Inhibiting is the opposite of exciting: which of the others silences it most?"],
};
const COLUMNS = 3;
const ARROWS = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -COLUMNS, ArrowDown: COLUMNS };

/** One trial on the screen: examples on the left, nine numbered choices on the right. */
class Grid {
  constructor(display, trial, practice) {
    this.ids = trial.choices;
    this.chosen = -1;
    this.first = -1;
    this.number = make("span", { className: "step" });
    this.question = make("h1");
    this.hint = make("p", { className: "hint" });
    const examples = trial.examples.map((id, i) => picture(id, `Example ${i + 1}`));
    this.cells = this.ids.map((id, i) => {
      const cell = make("button", { type: "button", className: "cell", disabled: true });
      cell.append(
        picture(id, ""),
        make("span", { className: "digit", "aria-hidden": "true" }, String(i + 1)),
        make("span", { className: "mark" }),
      );
      cell.addEventListener("click", () => this.choose(i));
      return cell;
    });
    this.status = make("p", { className: "status", role: "status" });
    this.confirm = make("button", { type: "button", className: "confirm", disabled: true }, "Confirm");
    this.root = make("section", { className: "trial loading" },
      make("div", { className: "ask", role: "group" },
        make("div", { className: "line" }, this.number, practice ? make("span", { className: "tag" }, "Practice") : ""),
        this.question, this.hint),
      make("div", { className: "boards" },
        make("div", { className: "board" },
          make("h2", {}, "These excite it strongly"),
          make("div", { className: "examples" }, ...examples)),
        make("div", { className: "board" },
          make("h2", {}, "Choose one of these nine"),
          make("div", { className: "choices", role: "group", "aria-label": "Choices" }, ...this.cells))),
      make("footer", {}, this.status, this.confirm),
    );
    display.replaceChildren(this.root);
    window.scrollTo(0, 0);
  }

  /** All pictures can be drawn at once. */
  async ready() {
    const pictures = [...this.root.querySelectorAll("img")];
    await Promise.all(pictures.map((each) => each.decode().catch(() => {})));
    this.root.classList.remove("loading");
  }

  label(i, text = "") {
    this.cells[i].setAttribute("aria-label", `Image ${i + 1}${text && `, ${text}`}`);
    this.cells[i].querySelector(".mark").textContent = text;
  }

  choose(i) {
    if (!this.open || this.cells[i].disabled) return;
    this.chosen = i;
    this.cells.forEach((cell, j) => {
      cell.setAttribute("aria-pressed", String(j === i));
      cell.classList.toggle("chosen", j === i);
      if (!cell.disabled) this.label(j, j === i ? "your choice" : "");
    });
    this.cells[i].focus({ preventScroll: true });
    this.confirm.disabled = false;
  }

  /** Wait for one choice that is confirmed. */
  async ask(question) {
    const [number, before, word, after, hint] = QUESTIONS[question];
    this.number.textContent = number;
    this.question.replaceChildren(before, make("em", { className: question }, word), after);
    this.hint.textContent = hint;
    this.status.textContent = "Click an image or press 1 to 9, then Confirm or Enter.";
    /* Counted from the frame in which it is seen. */
    await new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)));
    const [shown, began] = [new Date(), performance.now()];
    this.chosen = -1;
    this.cells.forEach((cell, i) => {
      cell.disabled = i === this.first;
      cell.classList.remove("chosen");
      cell.setAttribute("aria-pressed", "false");
      if (i !== this.first) this.label(i);
    });
    this.confirm.disabled = true;
    this.open = true;
    await new Promise((confirmed) => {
      const take = () => {
        if (!this.open || this.chosen < 0) return;
        this.open = false;
        document.removeEventListener("keydown", key);
        this.confirm.onclick = null;
        confirmed();
      };
      const key = (event) => {
        if (!this.root.isConnected || dialogIsOpen() || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
        /* Some keyboards have the digits on shifted keys. */
        const code = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
        const digit = Number(event.key) || (code ? Number(code[1]) : 0);
        const here = this.cells.indexOf(document.activeElement);
        if (digit >= 1 && digit <= this.cells.length) {
          this.choose(digit - 1);
        } else if (event.key in ARROWS) {
          this.move(here, event.key);
        } else if (event.key === "Enter" && this.chosen >= 0
          && (here < 0 || here === this.chosen) && document.activeElement.id !== "withdraw") {
          take();
        } else {
          return;
        }
        event.preventDefault();
      };
      this.confirm.onclick = take;
      document.addEventListener("keydown", key);
    });
    const reaction = Math.round(performance.now() - began);
    this.confirm.disabled = true;
    this.cells.forEach((cell) => (cell.disabled = true));
    return { choice: this.ids[this.chosen], reaction_ms: Math.min(reaction, 86400000), shown_at: shown.toISOString() };
  }

  /** The next image in that direction that can be chosen. */
  move(here, arrow) {
    const step = ARROWS[arrow];
    let next = here < 0 ? 0 : here + step;
    const along = Math.abs(step) === 1;
    const inside = (to) => to >= 0 && to < this.cells.length
      && (!along || here < 0 || Math.floor(to / COLUMNS) === Math.floor(here / COLUMNS));
    while (inside(next) && this.cells[next].disabled) next += here < 0 ? 1 : step;
    if (inside(next)) this.cells[next].focus({ preventScroll: true });
  }

  async saving(sent) {
    this.status.textContent = "Saving your answer…";
    const reply = await sent;
    this.status.textContent = "";
    return reply;
  }

  /** The first answer stays marked, and cannot be chosen again. */
  markFirst(id) {
    this.first = this.ids.indexOf(id);
    const cell = this.cells[this.first];
    cell.classList.remove("chosen");
    cell.classList.add("first");
    this.label(this.first, "your 1st answer");
  }

  /** Which images were right, until Continue. */
  async tell(feedback, stored, again) {
    this.number.textContent = stored ? "Your answers are stored" : "Only the first try is stored";
    const { mei, mii } = feedback;
    const both = mei.correct && mii.correct;
    const neither = !mei.correct && !mii.correct;
    this.question.textContent = both ? "Both are right." : neither ? "Neither was right." : "One is right.";
    this.hint.replaceChildren(...this.results(feedback));
    this.cells.forEach((cell, i) => {
      cell.className = "cell told";
      this.label(i);
      const id = this.ids[i];
      const said = [];
      for (const [name, verb] of [["mei", "excites"], ["mii", "inhibits"]]) {
        const { choice, right_choice: right } = feedback[name];
        if (id === right) {
          cell.classList.add(`right-${name}`);
          said.push(`${id === choice ? "✓ " : ""}${verb} most`);
        } else if (id === choice) {
          cell.classList.add("mine");
          said.push(`✗ your ${name === "mei" ? "1st" : "2nd"}`);
        }
      }
      this.label(i, said.join(" · "));
    });
    this.status.textContent = again
      ? "Look at the right answers, then try again until both are right."
      : "Look at the right answers, then go on.";
    this.confirm.textContent = again ? "Try again" : "Continue";
    this.confirm.disabled = false;
    this.confirm.focus({ preventScroll: true });
    await new Promise((resolve) => {
      this.confirm.onclick = resolve;
    });
  }

  results({ mei, mii }) {
    return [["mei", "Excites most", mei], ["mii", "Inhibits most", mii]].map(([name, what, each]) => {
      const place = this.ids.indexOf(each.right_choice) + 1;
      const yours = this.ids.indexOf(each.choice) + 1;
      return make("span", { className: "result" },
        make("em", { className: name }, what),
        `: image ${place}. `,
        each.correct ? "✓ You chose it." : `✗ You chose ${yours}.`);
    });
  }
}

const picture = (id, alt) =>
  make("img", { src: address(id), alt, draggable: false, className: "picture" });

/** Where a stimulus is. */
export const address = (id) => `/stimuli/${id}.png`;
