"use strict";
// Markdown of models as elements. Their text is not trusted: HTML in it stays text, and what the renderer and the
// highlighter make passes a sanitizer that lets through what Markdown needs. No image, no style, no handler, no form.

const markdown = (() => {
  const TAGS = ["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code",
    "em", "strong", "s", "table", "thead", "tbody", "tr", "th", "td", "a", "span"];
  const ALLOWED = { ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ["href", "class", "start"], ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false, RETURN_DOM_FRAGMENT: true };
  const LONGEST = 100_000; // characters of a block that are highlighted

  const renderer = window.markdownit({ html: false, linkify: false, breaks: false }).disable("image");
  renderer.validateLink = (url) => /^(https?:|mailto:)/i.test(url.trim());

  function clean(html) {
    const fragment = DOMPurify.sanitize(html, ALLOWED);
    for (const link of fragment.querySelectorAll("a")) {
      link.target = "_blank";
      link.rel = "noopener noreferrer nofollow";
    }
    return fragment;
  }

  // Code in its language's colours; of a language that is not known as it is.
  function highlighted(code, language) {
    const element = document.createElement("code");
    if (language && hljs.getLanguage(language) && code.length <= LONGEST) {
      element.append(clean(hljs.highlight(code, { language, ignoreIllegals: true }).value));
    } else {
      element.textContent = code;
    }
    return element;
  }

  function copyButton(text) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy quiet";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy the code");
    button.addEventListener("click", async () => {
      button.textContent = await copied(text) ? "Copied" : "Not allowed";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    return button;
  }

  // The clipboard is there on this machine and over https; elsewhere the old way.
  async function copied(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const field = document.createElement("textarea");
      field.value = text;
      document.body.append(field);
      field.select();
      const done = document.execCommand("copy");
      field.remove();
      return done;
    }
  }

  // Text of a model as elements; a fence that is still open is code already.
  function render(text) {
    const fragment = clean(renderer.render(text));
    for (const pre of fragment.querySelectorAll("pre")) {
      const shown = pre.querySelector("code");
      const language = /(?:^|\s)language-(\S+)/.exec(shown?.className || "")?.[1]?.toLowerCase();
      const code = (shown || pre).textContent.replace(/\n$/, "");
      const block = document.createElement("div");
      block.className = "code";
      const head = document.createElement("div");
      head.className = "code-head";
      head.append(Object.assign(document.createElement("span"), { textContent: language || "" }), copyButton(code));
      pre.replaceWith(block);
      pre.replaceChildren(highlighted(code, language));
      pre.tabIndex = 0; // to scroll by the keyboard
      block.append(head, pre);
    }
    for (const table of fragment.querySelectorAll("table")) {
      const frame = document.createElement("div");
      frame.className = "wide";
      table.replaceWith(frame);
      frame.append(table);
    }
    return fragment;
  }

  return { render };
})();
